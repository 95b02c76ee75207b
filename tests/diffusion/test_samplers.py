"""Samplers: identities of their coefficients, oracle and Gaussian denoisers.

The released program's whole chains are in test_as_users_run.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from perfect_answers import target

from tpgdiff_jax.diffusion.irsde import IRSDE, SCHEDULES
from tpgdiff_jax.diffusion.prediction import PREDICTIONS
from tpgdiff_jax.diffusion.samplers import (
    SAMPLERS,
    example_keys,
    sample,
    step_coefficients,
    step_times,
)

SDE = IRSDE()
EULER = tuple(name for name in SAMPLERS if SAMPLERS[name].own_steps_only)
STRIDED = tuple(name for name in SAMPLERS if name not in EULER)
STOCHASTIC = tuple(name for name in SAMPLERS if SAMPLERS[name].stochastic)
SECOND_ORDER = tuple(name for name in SAMPLERS if SAMPLERS[name].order == 2)

schedules = st.sampled_from(SCHEDULES)


def decay(t):
    """Return a_t for network times [B], also fractional ones, shaped to meet images."""
    times = jnp.arange(SDE.num_steps + 1.0)
    cumsum = jnp.interp(t, times, jnp.asarray(SDE.thetas_cumsum, jnp.float32))
    return jnp.exp(-cumsum * SDE.dt).reshape(-1, 1, 1, 1)


def oracle(x0, prediction: str = "x0"):
    """Return a denoiser that knows the clean image and answers as that prediction demands."""

    def denoise(x_t, mu, t):
        a, y, residual = decay(t), x_t - mu, x0 - mu
        noise = (y - a * residual) / (SDE.stationary_std * jnp.sqrt(1 - a**2))
        return target(prediction, residual, noise, a, SDE.stationary_std)

    return denoise


def images(count: int, shape=(2, 4, 3, 3), seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).random((count, *shape)), jnp.float32)


def run(name, denoise, mu, key=None, sde=SDE, **arguments):
    """Sample in one compiled program."""
    key = jax.random.key(0) if key is None else key
    start_noise, noises = arguments.pop("start_noise", None), arguments.pop("noises", None)

    def program(mu, key, start_noise, noises):
        return sample(
            name, denoise, sde, mu, key, start_noise=start_noise, noises=noises, **arguments
        )

    return jax.jit(program)(mu, key, start_noise, noises)


def table_at(times: np.ndarray, sde: IRSDE):
    """Return a and s at any times, from the definition, float64."""
    a = np.exp(-np.interp(times, np.arange(sde.steps + 1), sde.thetas_cumsum) * sde.dt)
    return a, sde.max_sigma / 255 * np.sqrt(1 - a**2)


def test_the_records_say_what_each_sampler_is():
    assert EULER == ("euler_sde", "euler_ode")
    assert STOCHASTIC == ("posterior", "sde2", "euler_sde")
    assert SECOND_ORDER == ("sde2", "ode2")


@pytest.mark.parametrize("name", SAMPLERS)
def test_coefficients_bear_out_the_records(name):
    _, _, slope, noise = step_coefficients(name, SDE, step_times(SDE, 100)).T
    assert bool(noise[:-1].any()) == SAMPLERS[name].stochastic
    assert bool(slope.any()) == (SAMPLERS[name].order == 2)


def test_what_a_sampler_does_follows_its_record_not_its_name(monkeypatch):
    times = step_times(SDE, 7)
    expected = step_coefficients("sde2", SDE, times)
    monkeypatch.setitem(SAMPLERS, "mine", SAMPLERS["sde2"])
    np.testing.assert_array_equal(step_coefficients("mine", SDE, times), expected)


# Coefficients.


@given(st.integers(1, 200), schedules, st.none() | st.integers(1, 150))
def test_times_run_evenly_from_the_last_to_zero(steps, schedule, sample_steps):
    sde = IRSDE(schedule=schedule, sample_steps=sample_steps)
    times = step_times(sde, steps)
    assert times.shape == (steps + 1,)
    assert times[0] == sde.steps
    assert times[-1] == 0
    np.testing.assert_allclose(np.diff(times), -sde.steps / steps)


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20, 25, 50, 100])
def test_step_counts_that_divide_stay_on_trained_times(steps):
    times = step_times(SDE, steps)
    np.testing.assert_array_equal(times, np.round(times))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stride_one_posterior_is_the_optimum_step(schedule):
    sde = IRSDE(schedule=schedule)
    state, clean, slope, noise = step_coefficients("posterior", sde, step_times(sde, 100)).T
    t = np.arange(100, 0, -1)
    x, x0, mu = images(3, (100, 2, 2, 3))
    c0, c1 = state.reshape(-1, 1, 1, 1), clean.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(
        mu + c0 * (x - mu) + c1 * (x0 - mu), sde.optimum(x, x0, mu, t), atol=2e-6
    )
    np.testing.assert_allclose(noise, sde.optimum_std(t), rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_euler_steps_are_the_sdes_reverse_steps(schedule):
    sde = IRSDE(schedule=schedule)
    t = np.arange(100, 0, -1)
    x, x0, mu = images(3, (100, 2, 2, 3))
    noise_estimate = (x - sde.mean(x0, mu, t)) / sde.std(t).reshape(-1, 1, 1, 1)
    score = sde.score_from_noise(noise_estimate, t)
    for name, step in (("euler_sde", sde.reverse_mean), ("euler_ode", sde.reverse_ode)):
        state, clean, slope, noise = step_coefficients(name, sde, step_times(sde, 100)).T
        c0, c1 = state.reshape(-1, 1, 1, 1), clean.reshape(-1, 1, 1, 1)
        reached = mu + c0 * (x - mu) + c1 * (x0 - mu)
        expected = step(x, mu, score, t)
        np.testing.assert_allclose(reached, expected, atol=1e-5 * np.abs(expected).max())
        fresh = -sde.sigmas[t] * np.sqrt(sde.dt) if name == "euler_sde" else 0.0
        np.testing.assert_allclose(noise, fresh, rtol=1e-9)
        np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("name", STRIDED)
@given(st.integers(1, 150), schedules)
def test_steps_of_any_stride_keep_the_marginals(name, steps, schedule):
    """With a known clean image, y_u = a_u q + s_u z must become y_v of the same form.

    Deterministic steps keep the very noise z; stochastic ones mix in new noise of the right size.
    """
    sde = IRSDE(schedule=schedule)
    times = step_times(sde, steps)
    a, s = table_at(times, sde)
    state, clean, _, noise = step_coefficients(name, sde, times).T
    np.testing.assert_allclose(state * a[:-1] + clean, a[1:], atol=1e-9)
    np.testing.assert_allclose(np.hypot(state * s[:-1], noise), s[1:], atol=1e-9)
    if name not in STOCHASTIC:
        np.testing.assert_array_equal(noise, 0)
    elif steps > 1:
        assert (noise[:-1] > 0).all()


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_last_step_is_the_estimate_itself(name, steps):
    rows = step_coefficients(name, SDE, step_times(SDE, steps))
    np.testing.assert_array_equal(rows[-1], [0, 1, 0, 0])


@pytest.mark.parametrize("name", SECOND_ORDER)
@pytest.mark.parametrize("steps", [7, 10, 100])
def test_second_order_steps_are_exact_for_an_estimate_linear_in_log_snr(name, steps):
    """Compare one step with the integral of the exact solution over lambda = ln(a/s), where

    y_v = (s_v/s_u) e^{-k h} y_u + (1 + k) a_v \\int e^{-(1 + k)(lambda_v - l)} q(l) dl, k = 0, 1.
    """
    times = step_times(SDE, steps)
    a, s = table_at(times[:-1], SDE)
    lam = np.log(a / s)
    rows = step_coefficients(name, SDE, times)
    k = 1 if name == "sde2" else 0
    first = step_coefficients("posterior" if k else "ode1", SDE, times)
    np.testing.assert_allclose(rows[:, [0, 1, 3]], first[:, [0, 1, 3]], rtol=1e-12)
    assert rows[0, 2] == 0  # no earlier estimate yet
    for now in range(1, steps - 1):
        q = 0.3 - 0.7 * lam  # any straight line
        state, clean, slope, _ = rows[now]
        reached = state * 0.2 + clean * q[now] + slope * (q[now] - q[now - 1])
        nodes, weights = np.polynomial.legendre.leggauss(30)
        half = (lam[now + 1] - lam[now]) / 2
        inside = lam[now] + half * (nodes + 1)
        kernel = np.exp(-(1 + k) * (lam[now + 1] - inside))
        integral = half * (weights * kernel * (0.3 - 0.7 * inside)).sum()
        shrink = s[now + 1] / s[now] * np.exp(-2 * k * half)
        exact = shrink * 0.2 + (1 + k) * a[now + 1] * integral
        assert reached == pytest.approx(exact, abs=1e-9)


# Denoisers that know the answer.


@pytest.mark.parametrize("steps", [1, 7, 10, 100])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", STRIDED)
def test_an_oracle_gets_the_clean_image_back(name, prediction, steps):
    mu, x0 = images(2)
    arguments = {"steps": steps, "prediction": prediction}
    if steps != 7:  # given noise compiles faster; 7 visits fractional times
        arguments["noises"] = jax.random.normal(jax.random.key(1), (101, *mu.shape))
        arguments["start_noise"] = arguments["noises"][0]
    out = run(name, oracle(x0, prediction), mu, **arguments)
    np.testing.assert_allclose(out, x0, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", EULER)
def test_an_oracle_gets_close_to_the_clean_image_by_euler_steps(name, prediction):
    mu, x0 = images(2)
    noises = jax.random.normal(jax.random.key(1), (101, *mu.shape))
    out = run(
        name, oracle(x0, prediction), mu, prediction=prediction, noises=noises, start_noise=mu
    )
    np.testing.assert_allclose(out, x0, atol=0.02)


MEAN, STD = 0.3, 0.1


def gaussian_denoiser(x_t, mu, t):
    """Return E[x0 - mu | x_t] where x0 - mu ~ N(MEAN, STD^2) in every pixel."""
    a, y = decay(t), x_t - mu
    noise_variance = SDE.stationary_std**2 * (1 - a**2)
    gain = a * STD**2 / (a**2 * STD**2 + noise_variance)
    return MEAN + gain * (y - a * MEAN)


@pytest.mark.parametrize(
    ("name", "steps", "std_error"),  # discretisation narrows or widens the result a little
    [
        ("posterior", 10, 0.35),
        ("posterior", 100, 0.06),
        ("sde2", 10, 0.05),
        ("sde2", 100, 0.02),
        ("ode1", 10, 0.25),
        ("ode1", 100, 0.03),
        ("ode2", 10, 0.05),
        ("ode2", 100, 0.01),
        ("euler_sde", 100, 0.03),
        ("euler_ode", 100, 0.03),
    ],
)
def test_gaussian_images_come_out_with_their_mean_and_std(name, steps, std_error):
    mu = jnp.full((2, 64, 64, 3), 0.5)
    out = run(name, gaussian_denoiser, mu, steps=steps, prediction="x0") - mu
    assert float(out.mean()) == pytest.approx(MEAN, abs=0.01 if name in EULER else 0.003)
    assert float(out.std()) == pytest.approx(STD, rel=std_error)


def ode_map(name: str, steps: int) -> tuple[float, float]:
    """Return offset and slope of the sampler's map from start noise to x0 - mu, linear here."""
    mu = jnp.zeros((2, 1, 1, 1))
    start = jnp.array([0.0, 1.0]).reshape(2, 1, 1, 1)
    noises = jnp.zeros((101, *mu.shape))
    out = run(
        name,
        gaussian_denoiser,
        mu,
        steps=steps,
        prediction="x0",
        start_noise=start,
        noises=noises,
    ).ravel()
    return float(out[0]), float(out[1] - out[0])


def test_ode_samplers_converge_to_the_flow_second_order_sooner():
    a, s = table_at(np.array([100.0]), SDE)
    exact_slope = float(STD * SDE.stationary_std / np.sqrt(a**2 * STD**2 + s**2)[0])
    exact_offset = float(MEAN - exact_slope / SDE.stationary_std * a[0] * MEAN)
    errors = {}
    for name in ("ode1", "ode2"):
        for steps in (10, 20, 50, 100):
            offset, slope = ode_map(name, steps)
            assert offset == pytest.approx(exact_offset, abs=2e-4)
            errors[name, steps] = abs(slope - exact_slope) / exact_slope
    assert errors["ode1", 10] / errors["ode1", 100] > 8  # first order: ten times the steps
    for steps in (10, 20, 50, 100):
        assert errors["ode2", steps] < 0.4 * errors["ode1", steps]


# What the network is shown, and what it may answer.


def test_sampling_starts_from_the_degraded_image_plus_noise():
    mu, start_noise = images(2)
    out = run(
        "ode1", lambda x_t, mu, t: x_t - mu, mu, steps=1, prediction="x0", start_noise=start_noise
    )
    np.testing.assert_allclose(out, mu + 50 / 255 * start_noise, atol=1e-6)


@pytest.mark.parametrize(
    ("sample_steps", "steps", "last_time"),
    [(None, 1, 100.0), (None, 4, 25.0), (None, 7, 100 / 7), (10, 10, 10.0), (10, 3, 100 / 3)],
)
def test_the_network_sees_times_it_was_trained_with(sample_steps, steps, last_time):
    """The last step returns the estimate; here that is the time of the last call."""
    seen = []

    def denoise(x_t, mu, t):
        seen.append((x_t.shape, mu.shape, t.shape, t.dtype.name))
        return jnp.broadcast_to(t.reshape(-1, 1, 1, 1), x_t.shape)

    mu = images(1)[0]
    sde = IRSDE(sample_steps=sample_steps)
    out = run("ode1", denoise, mu, sde=sde, steps=steps, prediction="x0", start_noise=mu)
    np.testing.assert_allclose(out - mu, last_time, rtol=1e-5)
    assert set(seen) == {(mu.shape, mu.shape, (2,), "float32")}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_traced_once_for_all_steps(name):
    calls = []

    def denoise(x_t, mu, t):
        calls.append(t)
        return 0.5 * (x_t - mu)

    program = jax.jit(lambda mu, key: sample(name, denoise, SDE, mu, key, prediction="x0"))
    text = program.lower(images(1)[0], jax.random.key(0)).as_text()
    assert len(calls) == 1
    assert "stablehlo.while" in text


def test_a_bfloat16_network_leaves_the_state_in_float32():
    mu, x0 = images(2)

    def denoise(x_t, mu, t):
        assert x_t.dtype == jnp.float32
        return (x0 - mu).astype(jnp.bfloat16)

    out = run("ode1", denoise, mu.astype(jnp.bfloat16), steps=2, prediction="x0", start_noise=mu)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, x0, atol=0.01)


def test_clamping_keeps_the_estimates_in_range():
    mu = images(1)[0]

    def bold(x_t, mu, t):
        return jnp.full_like(mu, 3.0)

    def steps(clamp):
        return run("ode1", bold, mu, steps=3, prediction="x0", start_noise=mu, clamp=clamp)

    np.testing.assert_allclose(steps(True), 1.0, atol=1e-6)
    np.testing.assert_allclose(steps(False), mu + 3, atol=1e-5)


# Randomness.


def noisy(x_t, mu, t):
    """A denoiser whose answer keeps all of the noise in the result."""
    return 0.5 * (x_t - mu)


@pytest.mark.parametrize("name", ["posterior", "sde2", "ode2"])
def test_an_image_comes_out_the_same_alone_and_in_a_batch(name):
    mu = images(1, (5, 4, 3, 3))[0]
    keys = jax.random.split(jax.random.key(4), 5)
    together = run(name, noisy, mu, keys, steps=7, prediction="x0")
    alone = run(name, noisy, mu[3:4], keys[3:4], steps=7, prediction="x0")
    np.testing.assert_allclose(alone[0], together[3], atol=1e-6)
    assert np.abs(together[3] - together[2] - (mu[3] - mu[2])).max() > 1e-3  # own noise each


def test_one_key_gives_each_place_its_own_noise_whatever_the_batch_size():
    key = jax.random.key(5)
    mu = jnp.full((4, 4, 3, 3), 0.5)
    four = run("posterior", noisy, mu, key, steps=5, prediction="x0")
    two = run("posterior", noisy, mu[:2], key, steps=5, prediction="x0")
    np.testing.assert_allclose(two, four[:2], atol=1e-6)
    assert np.abs(four[0] - four[1]).max() > 1e-3


def test_the_device_count_changes_nothing(make_mesh):
    mu = images(1, (8, 4, 3, 3))[0]
    expected = run("posterior", noisy, mu, steps=5, prediction="x0")
    sharded = jax.device_put(mu, NamedSharding(make_mesh(data=8), PartitionSpec("data")))
    found = run("posterior", noisy, sharded, steps=5, prediction="x0")
    assert len(found.sharding.device_set) == 8
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["posterior", "ode1"])
def test_results_follow_the_key(name):
    mu = images(1)[0]

    @jax.jit
    def restore(key, start_noise):
        return sample(name, noisy, SDE, mu, key, 5, "x0", start_noise=start_noise)

    one, again, other = (restore(jax.random.key(seed), mu) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert bool((one == other).all()) == (name not in STOCHASTIC)


def test_given_noise_replaces_every_draw():
    mu, start_noise = images(2)
    noises = jax.random.normal(jax.random.key(3), (101, *mu.shape))

    @jax.jit
    def restore(key, noises):
        return sample(
            "posterior", noisy, SDE, mu, key, 4, "x0", noises=noises, start_noise=start_noise
        )

    expected = restore(jax.random.key(1), noises)
    np.testing.assert_array_equal(restore(jax.random.key(2), noises), expected)
    unused = noises.at[jnp.array([0, 1, 24, 99])].set(9.0)  # not left by any of four steps
    np.testing.assert_array_equal(restore(jax.random.key(1), unused), expected)
    for t in (100, 75, 50):
        assert np.abs(restore(jax.random.key(1), noises.at[t].add(1.0)) - expected).max() > 1e-3


def test_raw_keys_of_older_programs_mean_the_same():
    mu = images(1)[0]
    expected = run("posterior", noisy, mu, jax.random.key(6), steps=3, prediction="x0")
    raw = run("posterior", noisy, mu, jax.random.PRNGKey(6), steps=3, prediction="x0")
    np.testing.assert_array_equal(raw, expected)
    raw_keys = jax.random.split(jax.random.PRNGKey(6), 2)
    keys = jax.random.split(jax.random.key(6), 2)
    np.testing.assert_array_equal(
        jax.random.key_data(example_keys(raw_keys, 2)), jax.random.key_data(keys)
    )


# Bad arguments.


def test_an_unknown_sampler_is_named():
    with pytest.raises(ValueError, match=r"sampler='ddim' is unknown; .*posterior.*euler_ode"):
        sample("ddim", noisy, SDE, images(1)[0], jax.random.key(0))


def test_an_unknown_prediction_is_named():
    with pytest.raises(ValueError, match="prediction='eps' is unknown"):
        sample("ode1", noisy, SDE, images(1)[0], jax.random.key(0), prediction="eps")


@pytest.mark.parametrize("steps", [0, -5, 7.5])
def test_a_step_count_that_is_no_positive_whole_number_is_named(steps):
    with pytest.raises(ValueError, match=f"steps={steps} must be a whole number, at least 1"):
        sample("ode1", noisy, SDE, images(1)[0], jax.random.key(0), steps=steps)


@pytest.mark.parametrize("name", EULER)
def test_euler_samplers_refuse_to_skip_steps(name):
    with pytest.raises(ValueError, match=f"sampler='{name}' takes the SDE's own 100 steps, not 10"):
        sample(name, noisy, SDE, images(1)[0], jax.random.key(0), steps=10)


def test_given_noise_needs_whole_times():
    noises = jnp.zeros((101, 2, 4, 3, 3))
    with pytest.raises(ValueError, match="noises needs whole times: steps=7 must divide 100"):
        sample("ode1", noisy, SDE, images(1)[0], jax.random.key(0), steps=7, noises=noises)


def test_wrong_number_of_keys_or_noises_is_named():
    mu = images(1)[0]
    keys = jax.random.split(jax.random.key(0), 3)
    with pytest.raises(ValueError, match="3 keys for 2 images"):
        sample("ode1", noisy, SDE, mu, keys, steps=1)
    short = np.zeros((SDE.steps, *mu.shape), np.float32)
    with pytest.raises(ValueError, match=r"noises is .* expected"):
        sample("posterior", noisy, SDE, mu, jax.random.key(0), noises=short)
