"""Every degradation: pure, in range, honest about its strength."""

import numpy as np
import pytest

from tpgdiff_jax.data.degradations import image_ops, optics, sensor, weather
from tpgdiff_jax.data.degradations.mix import DEGRADATIONS, degrade, sample_recipe

IMAGE = np.clip(
    image_ops.blur(np.random.default_rng(0).random((48, 56, 3), dtype=np.float32), 2) * 3 - 1, 0, 1
)


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_recipe_gives_the_same_pixels_in_range_and_leaves_its_input_alone(name):
    clean = np.round(IMAGE * 255).astype(np.uint8)
    before = clean.copy()
    recipe = sample_recipe(np.random.default_rng(5), name)
    first, second = degrade(clean, recipe), degrade(clean, recipe)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(clean, before)
    assert first.dtype == np.uint8
    assert first.shape == clean.shape
    assert 8 < psnr(first / 255, clean / 255) < 40


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_recipes_differ_by_seed_and_hold_plain_numbers(name):
    recipes = [sample_recipe(np.random.default_rng(seed), name) for seed in range(2)]
    assert recipes[0].params != recipes[1].params
    assert all(isinstance(v, int | float) for v in recipes[0].params.values())


@pytest.mark.parametrize(
    ("weaker", "stronger"),
    [
        (
            lambda: sensor.gaussian_noise(IMAGE, sigma=15, seed=1),
            lambda: sensor.gaussian_noise(IMAGE, sigma=30, seed=1),
        ),
        (
            lambda: sensor.low_light(IMAGE, exposure=0.3, read_noise=1, seed=1),
            lambda: sensor.low_light(IMAGE, exposure=0.1, read_noise=1, seed=1),
        ),
        (
            lambda: optics.gaussian_blur(IMAGE, sigma=1.0),
            lambda: optics.gaussian_blur(IMAGE, sigma=2.0),
        ),
        (
            lambda: weather.haze(IMAGE, density=0.5, airlight=0.9, seed=1),
            lambda: weather.haze(IMAGE, density=1.5, airlight=0.9, seed=1),
        ),
        (
            lambda: weather.rain(IMAGE, coverage=0.01, length=12, angle=10, brightness=0.7, seed=1),
            lambda: weather.rain(IMAGE, coverage=0.03, length=12, angle=10, brightness=0.7, seed=1),
        ),
    ],
    ids=["noise", "low_light", "blur", "haze", "rain"],
)
def test_stronger_parameters_harm_more(weaker, stronger):
    assert psnr(stronger(), IMAGE) < psnr(weaker(), IMAGE) - 1


def test_noise_has_the_standard_deviation_it_promises():
    grey = np.full((200, 200, 3), 0.5, np.float32)
    noisy = sensor.gaussian_noise(grey, sigma=25, seed=0)
    assert abs((noisy - grey).std() * 255 - 25) < 0.2


def test_blur_keeps_the_mean_and_spreads_a_point_by_sigma():
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 1
    spread = optics.gaussian_blur(point, sigma=2.0)[..., 0]
    offsets = np.arange(41) - 20
    assert abs(spread.sum() - 1) < 1e-5
    assert abs((spread.sum(0) * offsets**2).sum() - 4) < 0.15


def test_haze_follows_the_law_of_transmission():
    dark, light = (np.full((16, 16, 3), v, np.float32) for v in (0.1, 0.8))
    veiled = [weather.haze(x, density=1.0, airlight=0.9, seed=3) for x in (dark, light)]
    transmission = (veiled[1] - veiled[0]) / (light - dark)
    np.testing.assert_allclose(veiled[0], dark * transmission + 0.9 * (1 - transmission), atol=1e-5)
    assert transmission.min() > np.exp(-1.0)


def test_srgb_round_trip():
    values = np.linspace(0, 1, 101)
    np.testing.assert_allclose(
        image_ops.linear_to_srgb(image_ops.srgb_to_linear(values)), values, atol=1e-6
    )
