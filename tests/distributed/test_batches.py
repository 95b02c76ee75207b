"""How batches lie on the mesh, who reads what of them, and what is refused."""

import jax
import numpy as np
import pytest

from tpgdiff_jax.backbones.convolution import convolve
from tpgdiff_jax.config import base_config
from tpgdiff_jax.distributed import batches, sharding
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.reporting.errors import UserError


def mesh(data=-1, fsdp=1, tensor=1, spatial=1):
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor, "spatial": spatial}
    return sharding.make_mesh(sizes)


def test_batch_lies_over_data_and_fsdp_and_rows_over_spatial():
    m = mesh(data=2, fsdp=2, spatial=2)
    images = np.arange(8 * 4 * 3 * 3, dtype=np.uint8).reshape(8, 4, 3, 3)
    batch = batches.to_global({"gt": images, "label": np.arange(8)}, m)
    assert batch["gt"].sharding.shard_shape(batch["gt"].shape) == (2, 2, 3, 3)
    assert batch["label"].sharding.shard_shape((8,)) == (2,)
    np.testing.assert_array_equal(batch["gt"], images)
    whole = batches.to_global({"gt": images}, m, split_rows=False)["gt"]
    assert whole.sharding.shard_shape(whole.shape) == (2, 4, 3, 3)
    np.testing.assert_array_equal(whole, images)


def test_check_batch():
    m = mesh(data=2, fsdp=2, spatial=2)
    batches.check_batch(m, 8, 64)
    with pytest.raises(ValueError, match=r"data\.batch_size=6 .* data x fsdp = 2 x 2 = 4 devices"):
        batches.check_batch(m, 6, 64)
    with pytest.raises(ValueError, match=r"data\.crop_size=63 .* = 2 devices"):
        batches.check_batch(m, 8, 63)
    words = r"config\.data\.batch_size=8 .* optim\.accumulate=4 times .* 2 x 2 = 4 devices"
    with pytest.raises(ValueError, match=words):
        batches.check_batch(m, 8, 64, accumulate=4)


def test_rows_that_would_leave_a_device_without_any_are_refused():
    config = base_config()
    rows = tpgdiff.row_shrinking(config)
    assert {factor for *_, factor in rows} == {16}
    batches.check_rows(mesh(spatial=8), rows)
    config.data.crop_size = 192
    message = r"data\.crop_size=192: the UNet shrinks rows 16-fold.*16 x 8 = 128"
    with pytest.raises(ValueError, match=message):
        batches.check_rows(mesh(spatial=8), tpgdiff.row_shrinking(config))
    batches.check_rows(mesh(spatial=4), tpgdiff.row_shrinking(config))
    config.priors.map_size = 64
    batches.check_rows(mesh(spatial=4), tpgdiff.row_shrinking(config))
    with pytest.raises(ValueError, match=r"priors\.map_size=64: the structural encoder"):
        batches.check_rows(mesh(data=1, spatial=8), [tpgdiff.row_shrinking(config)[-1]])
    config.data.crop_size, config.priors.map_size = 17, 30
    batches.check_rows(mesh(), tpgdiff.row_shrinking(config))


def test_meshes_on_which_gradients_would_be_wrong_are_refused():
    config = base_config()
    rows = tpgdiff.row_shrinking(config)
    with pytest.raises(UserError, match=r"mesh\.spatial=2 and config\.mesh\.tensor=2: .* to 1"):
        batches.check_rows(mesh(tensor=2, spatial=2), rows)
    few = [("data.crop_size", 32, "the UNet", 16)]
    batches.check_rows(mesh(spatial=2), few)
    with pytest.raises(UserError, match=r"to 2 rows.*mesh\.spatial=2.*optim\.accumulate=2"):
        batches.check_rows(mesh(spatial=2), few, accumulate=2)
    batches.check_rows(mesh(spatial=2), rows, accumulate=2)


@pytest.mark.parametrize("spatial", [2, 4, 8])
@pytest.mark.parametrize(("size", "stride", "least"), [(3, 1, 2), (7, 1, 4), (3, 2, 1), (4, 2, 1)])
def test_the_rows_asked_for_are_enough_for_right_gradients(
    assert_near, spatial, size, stride, least
):
    """`check_rows` leaves so many rows a device; with fewer, some of these gradients are wrong."""
    rng = np.random.default_rng(0)
    rows = spatial * least
    shapes = ((8, rows * stride, 16, 4), (8, rows, 16 // stride, 4))
    x, dy = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    kernel = rng.standard_normal((size, size, 4, 4)).astype(np.float32)
    pads = ((1, 1), (1, 1)) if stride == 2 else "SAME"

    def run(x, kernel, dy):
        def layer(x, kernel):
            if (size, stride) == (3, 1):
                return convolve(x, kernel)
            numbers = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), pads, dimension_numbers=numbers
            )

        y, vjp = jax.vjp(layer, x, kernel)
        return y, *vjp(dy)

    m = mesh(spatial=spatial)
    images, whole = batches.batch_sharding(m, 4), sharding.replicated(m)
    sharded = jax.jit(run, in_shardings=(images, whole, images), out_shardings=whole)
    for ours, expected in zip(sharded(x, kernel, dy), run(x, kernel, dy), strict=True):
        assert_near(ours, expected, 1e-5)


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ([[0, 0]], {0: (0, 1)}),
        ([[0], [0], [1], [1]], {0: (0, 2), 1: (1, 2)}),  # data over two processes
        ([[0, 1]], {0: (0, 1), 1: (0, 1)}),  # rows of the same examples on both
        ([[0, 1], [2, 3]], {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),
    ],
)
def test_processes_share_the_batch(owners, expected):
    assert batches.shares(owners) == expected


@pytest.mark.parametrize("owners", [[[0], [0, 1], [1]], [[0], [1], [0], [1]], [[0], [0], [1]]])
def test_meshes_that_cut_through_processes_are_refused(owners):
    with pytest.raises(ValueError, match=r"cuts the batch into \d parts.*process 0: \[0"):
        batches.shares(owners)


def test_alone_a_process_reads_everything():
    for m in (mesh(), mesh(data=1, fsdp=8), mesh(data=1, spatial=8)):
        assert batches.process_share(m) == (0, 1)
