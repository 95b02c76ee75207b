"""Meshes, rules and the layout of a training state on eight host devices."""

import functools
import logging
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.config import base_config
from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.distributed.describe import bytes_per_device
from tpgdiff_jax.distributed.rules import check_rules
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.training.state import create_state, make_optimizer


def mesh(data=-1, fsdp=1, tensor=1, spatial=1):
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor, "spatial": spatial}
    return sharding.make_mesh(sizes)


def test_minus_one_takes_the_rest():
    assert dict(mesh(data=-1, fsdp=2).shape) == {"data": 4, "fsdp": 2, "tensor": 1, "spatial": 1}


@pytest.mark.parametrize(
    ("sizes", "arithmetic"),
    [
        ({"data": 3, "fsdp": 2}, "data=3 x fsdp=2 .* makes 6, but 8 devices"),
        ({"data": -1, "fsdp": 3}, "8 / 3 is no whole number"),
        ({"data": -1, "fsdp": 16}, "8 / 16 is no whole number"),
        ({"data": 16}, "makes 16, but 8 devices"),
    ],
)
def test_impossible_mesh_shows_the_arithmetic(sizes, arithmetic):
    with pytest.raises(ValueError, match=arithmetic):
        mesh(**sizes)


@pytest.mark.parametrize("sizes", [{"data": -1, "fsdp": -1}, {"data": 0}])
def test_senseless_sizes(sizes):
    with pytest.raises(ValueError, match="at most one may be -1"):
        mesh(**sizes)


def kernel(*shape):
    return {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}


def test_first_matching_rule_decides():
    tree = {"a": kernel(3, 3, 256, 512), "b": kernel(3, 3, 256, 512), "small": kernel(8, 8)}
    rules = (("^a/", "fsdp"), (".*", "replicate"))
    found = sharding.infer_shardings(tree, mesh(data=2, fsdp=4), rules)
    assert found["a"]["kernel"].spec == PartitionSpec(None, None, None, "fsdp")
    assert found["b"]["kernel"].spec == PartitionSpec()
    everywhere = sharding.infer_shardings(tree, mesh(data=2, fsdp=4), ((".*", "fsdp"),))
    assert everywhere["small"]["kernel"].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("shape", "tactic", "expected"),
    [
        ((3, 3, 8, 16), "tensor", (None, None, None, "tensor")),
        ((3, 3, 8, 16), "tensor+fsdp", (None, None, "fsdp", "tensor")),
        ((3, 3, 32, 15), "tensor", ()),  # never the input channels
        ((3, 3, 32, 15), "tensor+fsdp", (None, None, "fsdp", None)),
        ((3, 5), "tensor+fsdp", ()),
        ((16,), "tensor+fsdp", ("tensor",)),
        ((), "tensor+fsdp", ()),
    ],
)
def test_tactics(shape, tactic, expected):
    rules = ((".*", tactic, 0),)
    found = sharding.infer_shardings(kernel(*shape), mesh(fsdp=4, tensor=2), rules)
    assert found["kernel"].spec == PartitionSpec(*expected)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ((".*", "split"), "tactic 'split'"),
        (("(", "fsdp"), "no regex"),
        ((".*",), "must be"),
        ((".*", "fsdp", -1), "zero or more"),
    ],
)
def test_wrong_rules_name_themselves(rule, words):
    with pytest.raises(ValueError, match=rf"config\.sharding: .*{words}"):
        check_rules([rule])


def test_every_leaf_needs_a_rule():
    with pytest.raises(ValueError, match="no rule matches 'a/kernel'"):
        sharding.infer_shardings({"a": kernel(2)}, mesh(), (("b", "replicate"),))


@pytest.mark.parametrize("axis", ["fsdp", "tensor"])
def test_an_axis_that_splits_nothing_is_reported_with_its_rules(caplog, axis):
    rules = (("conv", "tensor+fsdp", 0), ("kernel", "fsdp"), (".*", "replicate"))
    with caplog.at_level(logging.WARNING, logger="absl"):
        sharding.infer_shardings({"conv": kernel(7, 7, 3, 3)}, mesh(**{axis: 4}), rules)
    assert re.search(rf"config\.mesh\.{axis}=4 splits no parameter.*'conv' \(0\)", caplog.text)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="absl"):
        sharding.infer_shardings({"conv": kernel(7, 7, 3, 4)}, mesh(**{axis: 4}), rules)
    assert not caplog.text


@functools.cache
def released_params():
    """Shapes of the released program's trained networks."""
    model = tpgdiff.build(base_config())
    image = jnp.zeros((1, 64, 64, 3))
    return jax.eval_shape(model.init, jax.random.key(0), image, image, jnp.ones(1))["params"]


@pytest.mark.parametrize("sizes", [{"fsdp": 4}, {"tensor": 2}, {"fsdp": 4, "tensor": 2}])
def test_default_rules_split_nearly_everything(sizes):
    params = released_params()
    m = mesh(**sizes)
    shardings = sharding.infer_shardings(params, m)
    total = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    parts = math.prod(sizes.values())
    assert bytes_per_device(params, shardings) < 1.6 * total / parts
    for path, where in jax.tree_util.tree_leaves_with_path(shardings):
        assert "tensor" not in where.spec[:-1]
        assert "tensor" not in where.spec or path[0].key == "unet"


def test_default_rules_split_the_frozen_networks():
    config = base_config()
    config.priors.update({"encoder": "clip", "cues": ("depth", "segmentation", "dog")})
    frozen = abstract_params(tpgdiff.frozen_networks(tpgdiff.build(config)))
    total = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(frozen))
    found = sharding.infer_shardings({"frozen": frozen}, mesh(fsdp=4))["frozen"]
    assert bytes_per_device(frozen, found) < 1.15 * total / 4


def optimizers():
    optim = base_config().optim
    chosen = {"lion": optax.chain(optax.clip_by_global_norm(1.0), optax.lion(1e-4))}
    for name in ("adamw", "muon"):
        optim.name = name
        chosen[name] = make_optimizer(optim)
        optim.clip_norm = 1.0
        chosen[f"{name}, clipped"] = make_optimizer(optim)
        chosen[f"{name}, accumulating"] = optax.MultiSteps(chosen[name], 2)
    chosen["masked"] = optax.masked(
        optax.adamw(1e-4), lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    )
    return chosen


@pytest.mark.parametrize("name", list(optimizers()))
def test_averages_and_moments_lie_where_their_parameters_lie(name):
    params, optimizer = released_params(), optimizers()[name]
    state = jax.eval_shape(lambda params: create_state(params, optimizer), params)
    # Anchored rules mean paths below `params`, not below `ema` or inside an optimiser's state.
    rules = (("^unet/.*kernel$", "tensor+fsdp"), ("^structure/", "fsdp"), (".*", "replicate"))
    shardings = sharding.state_shardings(state, mesh(data=1, fsdp=4, tensor=2), rules)
    assert shardings.ema == shardings.params
    by_path = {
        sharding.path_name(path): where
        for path, where in jax.tree_util.tree_leaves_with_path(shardings.params)
    }
    assert any(not where.is_fully_replicated for where in by_path.values())
    moments = jax.tree_util.tree_leaves_with_path(shardings.opt_state)
    followed = 0
    for path, where in moments:
        # Of "encoder/conv_0/kernel" and "structure/encoder/conv_0/kernel" the longer one.
        own = f"/{sharding.path_name(path)}"
        owner = max((p for p in by_path if own.endswith(f"/{p}")), key=len, default=None)
        followed += owner is not None
        assert where == (by_path[owner] if owner else sharding.replicated(where.mesh))
    matrices = sum(len(leaf.shape) > 1 for leaf in jax.tree.leaves(params))
    assert followed >= (matrices if name == "masked" else len(by_path))


class Wide(nn.Module):
    """One wide convolution, the shape of which nothing else in the program has."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(384, (5, 5), name="conv")(x)


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}])
def test_a_first_state_is_never_whole_on_one_device(sizes):
    """What `init_state` of the trainer does: abstract, shardings, then jit with them."""
    optimizer = optax.adamw(1e-3)

    def make(key):
        return create_state(Wide().init(key, jnp.zeros((1, 8, 8, 320)))["params"], optimizer)

    shapes = jax.eval_shape(make, jax.random.key(0))
    rules = (("kernel", "tensor+fsdp", 1024), (".*", "replicate"))
    shardings = sharding.state_shardings(shapes, mesh(**sizes), rules)
    compiled = jax.jit(make, out_shardings=shardings).lower(jax.random.key(0)).compile()
    text = compiled.as_text()
    assert not re.search(r"\[5,5,320,384\]", text)
    local = shardings.params["conv"]["kernel"].shard_shape((5, 5, 320, 384))
    assert f"f32[{','.join(map(str, local))}]" in text
    memory = compiled.memory_analysis()
    own = bytes_per_device(shapes, shardings)
    assert memory.output_size_in_bytes < own + 1024
    whole = 4 * math.prod((5, 5, 320, 384))
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < whole
    state = compiled(jax.random.key(0))
    plain = jax.jit(make)(jax.random.key(0))
    assert (jax.device_get(state.params["conv"]["kernel"]) == plain.params["conv"]["kernel"]).all()


def test_a_gathered_sharding_keeps_all_axes_but_one():
    mesh = sharding.make_mesh({"data": 1, "fsdp": 2, "tensor": 2, "spatial": 2})

    def without_fsdp(*spec):
        return sharding.gathered(NamedSharding(mesh, PartitionSpec(*spec)), "fsdp")

    shape = (4, 4, 4)
    for spec, left in (
        (("fsdp",), ()),
        ((None, "fsdp", "tensor"), (None, None, "tensor")),
        (((("tensor", "fsdp")), None, "spatial"), ("tensor", None, "spatial")),
    ):
        expected = NamedSharding(mesh, PartitionSpec(*left))
        assert without_fsdp(*spec).is_equivalent_to(expected, len(shape))
