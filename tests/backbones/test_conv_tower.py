"""The convolutional image tower."""

import jax
import numpy as np
import pytest

from tpgdiff_jax.backbones.conv_tower import ConvTower


@pytest.fixture(scope="module")
def tower(random_params):
    model = ConvTower(widths=(4, 6), features=8)
    return model, random_params(model, np.zeros((1, 16, 16, 3), np.float32)), jax.jit(model.apply)


@pytest.mark.parametrize("size", [(16, 16), (33, 20), (5, 7)])
def test_any_size_gives_one_float32_vector(tower, size):
    _, params, apply = tower
    image = np.random.default_rng(0).random((2, *size, 3), dtype=np.float32)
    found = apply({"params": params}, image)
    assert found.shape == (2, 8)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_it_sees_noise_that_a_small_view_would_average_away(tower):
    model, params, apply = tower
    rng = np.random.default_rng(1)
    clean = np.full((1, 256, 256, 3), 0.5, np.float32)
    noisy = clean + 0.1 * rng.standard_normal(clean.shape, dtype=np.float32)
    answers = [apply({"params": params}, model.view(x)) for x in (clean, noisy)]
    assert np.abs(answers[0] - answers[1]).max() > 0.1


def test_the_view_is_centred():
    np.testing.assert_array_equal(ConvTower((4,), 8).view(np.array([0.0, 0.5, 1.0])), [-1, 0, 1])
