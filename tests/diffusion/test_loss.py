"""Training times, training pairs and losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from perfect_answers import target

from tpgdiff_jax.diffusion.irsde import IRSDE, SCHEDULES
from tpgdiff_jax.diffusion.loss import (
    DISTANCES,
    diffuse,
    diffusion_loss,
    sample_times,
    time_weights,
)
from tpgdiff_jax.diffusion.prediction import PREDICTIONS

TIMES = np.array([1, 2, 10, 50, 99, 100])


def training_pair(sde: IRSDE, seed: int = 0):
    """Return (x_t, x0, mu, noise), one example per time of `TIMES`."""
    rng = np.random.default_rng(seed)
    x0, mu = rng.random((2, len(TIMES), 6, 5, 3), dtype=np.float32)
    noise = rng.standard_normal(x0.shape, dtype=np.float32)
    return diffuse(sde, x0, mu, TIMES, noise), x0, mu, noise


def perfect_answer(prediction, sde, x0, mu, noise):
    a = sde.decays[TIMES].astype(np.float32).reshape(-1, 1, 1, 1)
    return target(prediction, x0 - mu, noise, a, sde.stationary_std)


def test_weights_over_time_fall_with_the_signal():
    sde = IRSDE()
    t = jnp.arange(1, 101)
    np.testing.assert_array_equal(time_weights(sde, t, "uniform"), 1)
    weights = np.asarray(time_weights(sde, t, "min_snr"))
    a = sde.decays[1:]
    np.testing.assert_allclose(weights, np.minimum(a**2 / (1 - a**2), 5) / 5, rtol=1e-5)
    assert weights[0] == 1
    assert (np.diff(weights) <= 0).all()
    assert 0 < weights[-1] < 1e-4
    with pytest.raises(ValueError, match=r"time_weighting='snr'.*uniform, min_snr"):
        time_weights(sde, t, "snr")


def test_where_sampling_starts_the_state_tells_nothing_of_the_clean_image():
    sde = IRSDE()
    lq = jnp.full((2, 64, 64, 3), 0.2)
    gt = jnp.stack([lq[0], lq[0] + 0.6])  # the second one lacks light
    noise = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    t = jnp.full(2, sde.num_steps)
    drawn, start = (diffuse(sde, gt, lq, t, noise, starts_at_mu=flag) for flag in (False, True))
    told = jnp.abs(drawn[1] - drawn[0]).mean()
    assert 0.002 < told < 0.004  # eps of 0.6: the mean of 64 x 64 pixels tells it from noise
    np.testing.assert_array_equal(start[0], start[1])
    np.testing.assert_allclose(start, lq + sde.stationary_std * noise, rtol=1e-6)
    earlier = (diffuse(sde, gt, lq, t - 1, noise, starts_at_mu=flag) for flag in (False, True))
    np.testing.assert_array_equal(*earlier)


@given(
    seed=st.integers(0, 2**31 - 1),
    num_steps=st.integers(1, 300),
    power=st.floats(0.25, 8),
)
def test_times_lie_between_one_and_the_last_step(seed, num_steps, power):
    t = sample_times(jax.random.key(seed), 64, num_steps, power)
    assert t.shape == (64,)
    assert t.dtype == jnp.int32
    assert t.min() >= 1
    assert t.max() <= num_steps


def test_uniform_times_are_uniform_with_both_ends():
    counts = np.bincount(sample_times(jax.random.key(0), 100_000, 10), minlength=11)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], 10_000, rtol=0.05)


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_a_share_of_the_times_is_the_first_step_and_the_rest_stays_uniform(share):
    draw = {"first_step_share": share}
    t = np.asarray(sample_times(jax.random.key(2), 100_000, 100, **draw))
    others = np.bincount(t, minlength=101)[1:100] / len(t)
    np.testing.assert_allclose(others, (1 - share) / 100, atol=0.0015)
    assert (t == 100).mean() == pytest.approx(share + (1 - share) / 100, abs=0.006)


@pytest.mark.parametrize("power", [0.5, 2.0, 3.0])
def test_power_shapes_the_distribution_of_times(power):
    """A density proportional to u^(power - 1) has the distribution function u^power."""
    t = np.asarray(sample_times(jax.random.key(1), 100_000, 100, power))
    for quantile in (10, 25, 50, 75, 90):
        assert (t <= quantile).mean() == pytest.approx((quantile / 100) ** power, abs=0.006)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_diffused_states_have_the_marginals_mean_and_std(schedule):
    sde = IRSDE(schedule=schedule)
    t = np.array([1, 30, 100])
    shape = (3, 128, 128, 3)
    x0, mu = np.full(shape, 0.9, np.float32), np.full(shape, 0.2, np.float32)
    noise = jax.random.normal(jax.random.key(2), shape)
    states = np.asarray(diffuse(sde, x0, mu, t, noise))
    signal = np.exp(-sde.thetas_cumsum[t] * sde.dt)
    std = 50 / 255 * np.sqrt(1 - signal**2)
    np.testing.assert_allclose(states.std(axis=(1, 2, 3)), std, rtol=0.02)
    deviation = states.mean(axis=(1, 2, 3)) - (0.2 + 0.7 * signal)
    np.testing.assert_array_less(np.abs(deviation), 0.02 * std)


def released_loss_by_hand(sde: IRSDE, noise_estimate, x_t, x0, mu, distance):
    """Write the released program's loss (arXiv 2301.11699, Eq. 17) out in float64."""
    t = TIMES
    shape = (-1, 1, 1, 1)
    lam, dt = 50 / 255, sde.dt
    theta, cumulated = sde.thetas[t].reshape(shape), sde.thetas_cumsum[t].reshape(shape)
    variance = lam**2 * (1 - np.exp(-2 * cumulated * dt))
    score = -noise_estimate / np.sqrt(variance)
    drift = theta * (mu - x_t) - 2 * lam**2 * theta * score
    reached = x_t - drift * dt
    here, step = np.exp(-cumulated * dt), np.exp(-theta * dt)
    before = np.exp(-(cumulated - theta) * dt)
    wanted = mu
    wanted = wanted + step * (1 - before**2) / (1 - here**2) * (x_t - mu)
    wanted = wanted + before * (1 - step**2) / (1 - here**2) * (x0 - mu)
    error = reached - wanted
    mean = (np.abs(error) if distance == "l1" else error**2).mean(axis=(1, 2, 3))
    return np.log(mean + 3e-5) if distance == "log_l2" else mean


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_default_loss_is_the_released_formula(distance):
    sde = IRSDE()
    x_t, x0, mu, _ = (np.asarray(x, np.float64) for x in training_pair(sde))
    estimate = np.random.default_rng(9).standard_normal(x0.shape)
    expected = released_loss_by_hand(sde, estimate, x_t, x0, mu, distance)
    found = diffusion_loss(
        sde, *(jnp.asarray(x) for x in (estimate, x_t, x0, mu)), TIMES, distance=distance
    )
    assert found.shape == (len(TIMES),)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=3e-4)


def test_the_default_loss_equals_the_released_steps_difference(golden):
    g = golden("irsde")
    expected = np.abs(g["reverse_sde_mean"] - g["reverse_optimum"]).mean(axis=(1, 2, 3))
    found = diffusion_loss(IRSDE(), g["noise"], g["xt"], g["x0"], g["mu"], g["t"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_answer_has_no_residual_loss(prediction, distance):
    sde = IRSDE()
    x_t, x0, mu, noise = training_pair(sde)
    answer = perfect_answer(prediction, sde, x0, mu, noise)
    kinds = {"prediction": prediction, "objective": "residual", "distance": distance}
    least = np.log(3e-5) if distance == "log_l2" else 0.0
    rounding = {"l1": 1e-5, "l2": 1e-10, "log_l2": 1e-5}[distance]
    assert diffusion_loss(sde, answer, x_t, x0, mu, TIMES, **kinds).max() < least + rounding
    assert diffusion_loss(sde, answer + 1, x_t, x0, mu, TIMES, **kinds).min() > least + 1e-5


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_perfect_answer_leaves_only_the_steps_discretisation(schedule, prediction):
    """The reverse step is Euler's, the optimum exact: they differ by the square of theta dt."""
    sde = IRSDE(schedule=schedule)
    x_t, x0, mu, noise = training_pair(sde)
    answer = perfect_answer(prediction, sde, x0, mu, noise)
    loss = np.asarray(diffusion_loss(sde, answer, x_t, x0, mu, TIMES, prediction=prediction))
    size = np.abs(x_t - mu).mean(axis=(1, 2, 3)) + np.abs(x0 - mu).mean(axis=(1, 2, 3))
    assert (loss < (sde.thetas[TIMES] * sde.dt) ** 2 * size + 1e-6).all()
    wrong = np.asarray(diffusion_loss(sde, answer + 1, x_t, x0, mu, TIMES, prediction=prediction))
    assert (wrong[:3] > 20 * loss[:3]).all()


@pytest.mark.parametrize("objective", ["optimum", "residual"])
def test_equivalent_answers_cost_the_same_whatever_the_network_predicts(objective):
    """A wrong residual and the noise and v that imply it."""
    sde = IRSDE()
    x_t, x0, mu, _ = training_pair(sde)
    a = sde.decays[TIMES].astype(np.float32).reshape(-1, 1, 1, 1)
    residual = 0.5 * (x0 - mu) + 0.1
    noise = (x_t - mu - a * residual) / (sde.stationary_std * np.sqrt(1 - a**2))
    losses = [
        diffusion_loss(
            sde,
            target(prediction, residual, noise, a, sde.stationary_std),
            x_t,
            x0,
            mu,
            TIMES,
            prediction=prediction,
            objective=objective,
        )
        for prediction in PREDICTIONS
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-3)


def test_distances_are_mean_absolute_and_mean_squared_error():
    sde = IRSDE()
    x_t, x0, mu, _ = training_pair(sde)
    off = x0 - mu + np.linspace(-1, 1, x0.size, dtype=np.float32).reshape(x0.shape)
    kinds = {"prediction": "x0", "objective": "residual"}
    error = np.asarray(off - (x0 - mu), np.float64)
    l1 = diffusion_loss(sde, off, x_t, x0, mu, TIMES, distance="l1", **kinds)
    l2 = diffusion_loss(sde, off, x_t, x0, mu, TIMES, distance="l2", **kinds)
    np.testing.assert_allclose(l1, np.abs(error).mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(l2, np.square(error).mean(axis=(1, 2, 3)), rtol=1e-5)


def test_log_l2_moves_alike_for_every_db():
    """Ten dB less error lower the loss by log 10, for strong and for weak degradations."""
    sde = IRSDE()
    rng = np.random.default_rng(0)
    x0 = rng.random((1, 8, 8, 3), dtype=np.float32)
    t = np.array([50])
    losses = [
        diffusion_loss(
            sde,
            np.full_like(x0, error),
            x0,
            x0,
            x0,
            t,
            prediction="x0",
            objective="residual",
            distance="log_l2",
        )[0]
        for error in (1.0, 0.1**0.5, 0.0)
    ]
    assert losses[0] - losses[1] == pytest.approx(np.log(10), rel=1e-3)
    assert losses[2] == pytest.approx(np.log(3e-5), rel=1e-5)


def test_the_loss_is_float32_for_a_bfloat16_network():
    sde = IRSDE()
    x_t, x0, mu, noise = training_pair(sde)
    rounded = jnp.asarray(noise, jnp.bfloat16)
    found = diffusion_loss(sde, rounded, x_t, x0, mu, TIMES)
    assert found.dtype == jnp.float32
    expected = diffusion_loss(sde, rounded.astype(jnp.float32), x_t, x0, mu, TIMES)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("argument", "key"),
    [
        ("prediction", "model.prediction"),
        ("objective", "loss.objective"),
        ("distance", "loss.distance"),
    ],
)
def test_an_unknown_name_is_reported_with_its_key(argument, key):
    sde = IRSDE()
    x_t, x0, mu, noise = training_pair(sde)
    with pytest.raises(ValueError, match=f"{key}='huber' is unknown; expected one of"):
        diffusion_loss(sde, noise, x_t, x0, mu, TIMES, **{argument: "huber"})
