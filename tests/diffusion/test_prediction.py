"""The three kinds of prediction carry the same information."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from perfect_answers import target

from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.prediction import (
    PREDICTIONS,
    check_prediction,
    to_noise,
    to_residual,
)

STD = 50 / 255

decays = st.floats(0.005, 0.999)
seeds = st.integers(0, 999)


def forward(seed: int, a: float):
    """Return residual, noise and the state they make at decay `a`, float32 of float64 sums."""
    rng = np.random.default_rng(seed)
    residual = rng.uniform(-1, 1, (2, 3, 4, 3))
    noise = rng.standard_normal(residual.shape)
    y = a * residual + STD * np.sqrt(1 - a**2) * noise
    return tuple(jnp.asarray(x, jnp.float32) for x in (residual, noise, y))


def residual_tolerance(a: float) -> float:
    """Rounding of y in float32, divided by a as the inversion must."""
    return 1e-6 / a


@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(a=decays, seed=seeds)
def test_a_perfect_answer_converts_to_the_true_residual_and_noise(prediction, a, seed):
    residual, noise, y = forward(seed, a)
    answer = target(prediction, residual, noise, a, STD)
    found = to_residual(prediction, answer, y, a, STD)
    np.testing.assert_allclose(found, residual, atol=residual_tolerance(a))
    noise_tolerance = 1e-5 / np.sqrt(1 - a**2)
    np.testing.assert_allclose(to_noise(prediction, answer, y, a, STD), noise, atol=noise_tolerance)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(a=decays, seed=seeds)
def test_residual_and_noise_of_any_answer_explain_the_state(prediction, a, seed):
    """Also a wrong answer must split y into a q + s z."""
    answer, _, y = forward(seed, a)
    residual = np.asarray(to_residual(prediction, answer, y, a, STD), np.float64)
    noise = np.asarray(to_noise(prediction, answer, y, a, STD), np.float64)
    again = a * residual + STD * np.sqrt(1 - a**2) * noise
    np.testing.assert_allclose(again, y, atol=1e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(a=decays, seed=seeds)
def test_an_answer_survives_the_way_over_residual_and_noise(prediction, a, seed):
    answer, _, y = forward(seed, a)
    residual = to_residual(prediction, answer, y, a, STD)
    noise = to_noise(prediction, answer, y, a, STD)
    tolerance = 1e-5 * (1 / a + 1 / np.sqrt(1 - a**2))
    np.testing.assert_allclose(
        target(prediction, residual, noise, a, STD), answer, atol=tolerance, rtol=1e-4
    )


def test_targets_follow_their_definitions():
    residual, noise, a = np.array([0.5, -0.25]), np.array([2.0, -1.0]), 0.6  # r = 0.8
    np.testing.assert_array_equal(target("noise", residual, noise, a, STD), noise)
    np.testing.assert_array_equal(target("x0", residual, noise, a, STD), residual)
    expected = 0.6 * noise - 0.8 * residual / STD
    np.testing.assert_allclose(target("v", residual, noise, a, STD), expected, rtol=1e-6)


def test_v_lies_between_the_other_two():
    """Nearly clean, v is the noise; nearly pure noise, it is the residual's negative over S."""
    residual, noise, _ = forward(0, 0.5)
    np.testing.assert_allclose(target("v", residual, noise, 1.0, STD), noise)
    np.testing.assert_allclose(target("v", residual, noise, 0.0, STD), -residual / STD, rtol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_each_example_may_have_its_own_decay(prediction):
    a = jnp.array([0.9, 0.1]).reshape(-1, 1, 1, 1)
    answer, y = (jnp.asarray(x) for x in np.random.default_rng(1).random((2, 2, 3, 4, 3)))
    for convert in (to_residual, to_noise):
        together = convert(prediction, answer, y, a, STD)
        for i in range(2):
            alone = convert(prediction, answer[i], y[i], float(a[i, 0, 0, 0]), STD)
            np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)


def test_the_noise_of_the_released_program_is_found_from_its_clean_image(golden, assert_near):
    arrays, sde = golden("irsde"), IRSDE()
    a = jnp.asarray(sde.decays, jnp.float32)[arrays["t"]].reshape(-1, 1, 1, 1)
    y, residual = arrays["xt"] - arrays["mu"], arrays["x0"] - arrays["mu"]
    found = to_noise("x0", residual, y, a, sde.stationary_std)
    for example, expected in zip(found, arrays["real_noise"], strict=True):
        assert_near(example, expected, 2e-4)  # 1 - a^2 loses digits at t = 1


@pytest.mark.parametrize("name", ["eps", "X0", ""])
def test_an_unknown_prediction_is_named(name):
    zeros = jnp.zeros((1, 2, 2, 3))
    message = f"model.prediction={name!r} is unknown; expected one of noise, x0, v"
    for call in (
        lambda: check_prediction(name),
        lambda: to_residual(name, zeros, zeros, 0.5, STD),
        lambda: to_noise(name, zeros, zeros, 0.5, STD),
    ):
        with pytest.raises(ValueError, match=message):
            call()
