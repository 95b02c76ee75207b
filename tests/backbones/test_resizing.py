"""Resizing gives what PyTorch and Pillow give."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tpgdiff_jax.backbones.resizing import METHODS, resize, resize_bytes

SIZES = [((12, 17), (30, 41)), ((30, 41), (12, 17)), ((19, 8), (7, 23)), ((5, 5), (1, 2))]
MODES = {"linear": "bilinear", "cubic": "bicubic"}
FILTERS = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}

sides = st.integers(1, 24)


@pytest.mark.parametrize(("size", "wanted"), SIZES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["plain", "align_corners", "antialias"])
def test_resizing_is_pytorchs(size, wanted, method, kind):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).random((2, *size, 3), np.float32)
    flags = {} if kind == "plain" else {kind: True}
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(images).permute(0, 3, 1, 2), wanted, mode=MODES[method], **flags
    )
    ours = resize(jnp.asarray(images), wanted, method, **flags)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1), rtol=0, atol=4e-6)


def test_antialiasing_matters_only_when_shrinking():
    images = jnp.asarray(np.random.default_rng(0).random((1, 12, 12, 1), np.float32))
    up = [resize(images, (29, 31), antialias=flag) for flag in (False, True)]
    np.testing.assert_allclose(*up, atol=1e-6)
    down = [resize(images, (5, 4), antialias=flag) for flag in (False, True)]
    assert np.abs(down[0] - down[1]).max() > 0.1


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((40, 60), (97, 145)),
        ((97, 145), (40, 60)),
        ((64, 64), (21, 21)),
        ((200, 63), (152, 48)),
        ((33, 47), (80, 20)),
        ((80, 20), (33, 47)),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_8_bit_resizing_is_pillows(size, wanted, method):
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (size[0] // 3, size[1] // 3, 3), np.uint8))
    image = np.asarray(coarse.resize(size[::-1], Image.Resampling.NEAREST))
    # One axis after the other: from version 13 on Pillow begins with the rows for some shapes.
    theirs = Image.fromarray(image).resize((wanted[1], size[0]), FILTERS[method])
    theirs = np.asarray(theirs.resize(wanted[::-1], FILTERS[method]))
    ours = np.asarray(resize_bytes(jnp.asarray(image[None], jnp.float32), wanted, method))[0]
    np.testing.assert_array_equal(ours, np.round(ours))
    difference = np.abs(ours - theirs)
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.95


@pytest.mark.parametrize("size", [(40, 60), (97, 40), (24, 31), (31, 24)])
def test_a_part_is_cut_from_the_whole(size):
    image = np.random.default_rng(3).integers(0, 256, (1, *size, 3)).astype(np.float32)
    whole = resize_bytes(jnp.asarray(image), (31, 60), "cubic")
    part = resize_bytes(jnp.asarray(image), (31, 60), "cubic", ((4, 20), (7, 59)))
    np.testing.assert_array_equal(part, whole[:, 4:20, 7:59])


def test_cubic_overshoot_is_clipped_to_bytes():
    edge = jnp.zeros((1, 4, 8, 1)).at[:, :, 4:].set(255)
    resized = resize_bytes(edge, (4, 24), "cubic")
    assert (resized.min(), resized.max()) == (0, 255)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_size_changes_nothing(method):
    levels = np.random.default_rng(2).integers(0, 256, (2, 9, 13, 3)).astype(np.float32)
    for flags in ({}, {"antialias": True}, {"align_corners": True}):
        np.testing.assert_array_equal(resize(jnp.asarray(levels), (9, 13), method, **flags), levels)
    np.testing.assert_array_equal(resize_bytes(jnp.asarray(levels), (9, 13), method), levels)


@given(size=st.tuples(sides, sides), wanted=st.tuples(sides, sides), level=st.integers(0, 255))
def test_constants_stay_constant(size, wanted, level):
    image = jnp.full((1, *size, 1), level, jnp.float32)
    for method in METHODS:
        for flags in ({}, {"antialias": True}, {"align_corners": True}):
            resized = resize(image, wanted, method, **flags)
            assert resized.shape == (1, *wanted, 1)
            np.testing.assert_allclose(resized, level, rtol=2e-6)
        np.testing.assert_array_equal(resize_bytes(image, wanted, method), level)


def test_the_dtype_is_kept():
    assert resize(jnp.ones((1, 4, 4, 1), jnp.bfloat16), (3, 9)).dtype == jnp.bfloat16


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="method='area' is unknown; expected one of linear, cubic"):
        resize(jnp.zeros((1, 4, 4, 1)), (2, 2), "area")
    with pytest.raises(ValueError, match="method='lanczos'"):
        resize_bytes(jnp.zeros((1, 4, 4, 1)), (2, 2), "lanczos")
