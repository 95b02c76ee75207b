"""Meshes, rules and batches on eight host devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tpgdiff_jax.distributed import sharding


def mesh(data=-1, fsdp=1, tensor=1, spatial=1):
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor, "spatial": spatial}
    return sharding.make_mesh(sizes)


def test_minus_one_takes_the_rest():
    assert dict(mesh(data=-1, fsdp=2).shape) == {"data": 4, "fsdp": 2, "tensor": 1, "spatial": 1}


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": -1, "fsdp": 3}, {"data": 16}])
def test_impossible_mesh_shows_the_arithmetic(sizes):
    with pytest.raises(ValueError, match=r"data=.* x fsdp=.*8 devices"):
        mesh(**sizes)


@pytest.mark.parametrize("sizes", [{"data": -1, "fsdp": -1}, {"data": 0}])
def test_senseless_sizes(sizes):
    with pytest.raises(ValueError, match="at most one may be -1"):
        mesh(**sizes)


def test_batch_lies_over_data_and_fsdp_and_rows_over_spatial():
    m = mesh(data=2, fsdp=2, spatial=2)
    images = np.arange(8 * 4 * 3 * 3, dtype=np.uint8).reshape(8, 4, 3, 3)
    batch = sharding.to_global({"gt": images, "label": np.arange(8)}, m)
    assert batch["gt"].sharding.shard_shape(batch["gt"].shape) == (2, 2, 3, 3)
    assert batch["label"].sharding.shard_shape((8,)) == (2,)
    np.testing.assert_array_equal(batch["gt"], images)


def test_check_batch():
    m = mesh(data=4, spatial=2)
    sharding.check_batch(m, 8, 64)
    with pytest.raises(ValueError, match=r"data\.batch_size=6 .* = 4 devices"):
        sharding.check_batch(m, 6, 64)
    with pytest.raises(ValueError, match=r"data\.crop_size=63 .* = 2 devices"):
        sharding.check_batch(m, 8, 63)


def test_first_matching_rule_decides():
    tree = {
        "a": {"kernel": jax.ShapeDtypeStruct((3, 3, 256, 512), jnp.float32)},
        "b": {"kernel": jax.ShapeDtypeStruct((3, 3, 256, 512), jnp.float32)},
        "small": {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32)},
    }
    rules = (("^a/", "fsdp"), (".*", "replicate"))
    found = sharding.infer_shardings(tree, mesh(data=2, fsdp=4), rules)
    assert found["a"]["kernel"].spec == PartitionSpec(None, None, None, "fsdp")
    assert found["b"]["kernel"].spec == PartitionSpec()
    everywhere = sharding.infer_shardings(tree, mesh(data=2, fsdp=4), ((".*", "fsdp"),))
    assert everywhere["small"]["kernel"].spec == PartitionSpec()


def test_rules_that_do_not_fit():
    tree = {"a": jax.ShapeDtypeStruct((2,), jnp.float32)}
    with pytest.raises(ValueError, match="tactic 'split'"):
        sharding.infer_shardings(tree, mesh(), ((".*", "split"),))
    with pytest.raises(ValueError, match="no rule matches 'a'"):
        sharding.infer_shardings(tree, mesh(), (("b", "replicate"),))
