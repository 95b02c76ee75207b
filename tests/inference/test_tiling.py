"""Windows agree where they meet, cover everything, and cost memory only by their own size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.samplers import sample
from tpgdiff_jax.inference.tiling import blending_weights, count, starts, tiled


@given(st.integers(1, 300), st.integers(2, 64), st.data())
def test_windows_cover_every_pixel_and_overlap_enough(length, tile, data):
    overlap = data.draw(st.integers(0, tile - 1))
    found = starts(length, tile, overlap)
    assert found[0] == 0
    ends = [start + min(tile, length) for start in found]
    assert ends[-1] == length
    for end, following in zip(ends, found[1:], strict=False):
        assert end - following >= overlap or following == 0
        assert end >= following


def test_windows_are_counted():
    assert count((3072, 4096), 768) == 5 * 6
    assert count((64, 4096), 768) == 6
    assert count((768, 768), 768) == 1


def images(height=40, width=56, batch=2, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    return tuple(jax.random.normal(key, (batch, height, width, 3)) for key in keys)


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_a_network_that_looks_at_single_pixels_is_not_changed(assert_near, at_once):
    x_t, mu = images()
    t = jnp.array([3, 50])

    def pointwise(x_t, mu, t):
        return jnp.sin(x_t) * mu + t.reshape(-1, 1, 1, 1)

    found = jax.jit(tiled(pointwise, 16, 5, at_once))(x_t, mu, t)
    assert_near(found, pointwise(x_t, mu, t), 1e-6)


def test_an_image_that_fits_is_passed_on_whole():
    x_t, mu = images(16, 12)
    seen = []

    def network(x_t, mu, t):
        seen.append(x_t.shape)
        return x_t

    tiled(network, 16, 4)(x_t, mu, jnp.ones(2))
    assert seen == [x_t.shape]


def test_no_seams_where_windows_answer_differently():
    mu = jnp.zeros((1, 48, 96, 3))
    x_t = jnp.linspace(0, 1, 96).reshape(1, 1, 96, 1) * jnp.ones_like(mu)

    def differs(x_t, mu, t):  # each window shifts its answer by its own mean
        return x_t - x_t.mean(axis=(1, 2), keepdims=True)

    steps = {}
    for overlap in (0, 16):
        answer = tiled(differs, 32, overlap)(x_t, mu, jnp.ones(1))
        steps[overlap] = float(jnp.abs(jnp.diff(answer, axis=2)).max())
    assert steps[0] > 0.2  # hard borders show
    assert steps[16] < 0.06


def test_all_samplers_take_a_tiled_network(assert_near):
    sde = IRSDE(num_steps=10)
    _, mu = images(24, 40, 1)

    def network(x_t, mu, t):
        return 0.1 * (x_t - mu)

    def whole(tile):
        denoise = tiled(network, tile, 8) if tile else network
        return sample("posterior", denoise, sde, mu, jax.random.key(0), steps=4)

    assert_near(whole(16), whole(None), 1e-5)


def test_memory_does_not_grow_with_the_number_of_windows():
    kernel = jnp.ones((7, 7, 3, 256)) * 0.01

    def network(x_t, mu, t):  # holds 256 channels
        x = jax.lax.conv_general_dilated(
            x_t, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sin(x)[..., :3] + x.mean(axis=-1, keepdims=True)

    def temporary(side):
        shape = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        t = jax.ShapeDtypeStruct((1,), jnp.float32)
        compiled = jax.jit(tiled(network, 64, 8)).lower(shape, shape, t).compile()
        images_held = 4 * side * side * 4 * 3
        return compiled.memory_analysis().temp_size_in_bytes - images_held

    assert temporary(512) < 1.5 * temporary(128)


def test_weights_fall_towards_the_border_and_never_vanish():
    weights = blending_weights((9, 12), 3)
    assert weights.shape == (9, 12)
    assert weights.min() > 0
    assert weights[4, 5] == 1
    assert (np.diff(weights[4, :4]) > 0).all()


def test_an_overlap_as_large_as_the_tile_is_refused():
    with pytest.raises(ValueError, match="overlap=16 must be"):
        tiled(lambda x_t, mu, t: x_t, 16, 16)
