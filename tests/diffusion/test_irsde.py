"""The SDE's tables and single steps: golden numbers, identities, bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpgdiff_jax.diffusion.irsde import IRSDE, SCHEDULES, theta_schedule

TABLES = ("thetas", "sigmas", "thetas_cumsum", "sigma_bars", "dt")

sdes = st.builds(
    IRSDE,
    num_steps=st.integers(1, 200),
    max_sigma=st.floats(1, 100),
    eps=st.floats(0.005, 0.5),
    schedule=st.sampled_from(SCHEDULES),
    sample_steps=st.none() | st.integers(1, 200),
)


def images(seed: int, count: int, batch: int = 2):
    """Return `count` arrays [batch, 3, 4, 3], uniform in [0, 1]."""
    return np.random.default_rng(seed).random((count, batch, 3, 4, 3), dtype=np.float32)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("steps", [100, 10])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_tables_equal_the_released_ones(golden, schedule, steps, table):
    sde = IRSDE(num_steps=100, schedule=schedule, sample_steps=steps)
    expected = golden("irsde")[f"{schedule}_{steps}_{table}"]
    np.testing.assert_allclose(getattr(sde, table), expected, rtol=1e-5)


STEPS = {
    "mu_bar": lambda sde, g: sde.mean(g["x0"], g["mu"], g["t"]),
    "sigma_bar": lambda sde, g: sde.std(g["t"]),
    "score": lambda sde, g: sde.score_from_noise(g["noise"], g["t"]),
    "reverse_sde_mean": lambda sde, g: sde.reverse_mean(g["xt"], g["mu"], g["score"], g["t"]),
    "ode_step": lambda sde, g: sde.reverse_ode(g["xt"], g["mu"], g["score"], g["t"]),
    "reverse_optimum": lambda sde, g: sde.optimum(g["xt"], g["x0"], g["mu"], g["t"]),
    "optimum_std": lambda sde, g: sde.optimum_std(g["t"]),
    "init_from_noise": lambda sde, g: sde.x0_from_noise(g["xt"], g["mu"], g["noise"], g["t"]),
}


@pytest.mark.parametrize("name", STEPS)
def test_single_steps_equal_the_released_ones(golden, assert_near, name):
    arrays = golden("irsde")
    actual = STEPS[name](IRSDE(), arrays)
    for example, expected in zip(actual, arrays[name], strict=True):  # each at its own t
        assert_near(example, expected, 1e-5)


@given(sdes)
def test_tables_start_at_the_clean_image_and_end_at_eps(sde):
    assert sde.decays[0] == 1
    assert sde.decays[-1] == pytest.approx(sde.eps, rel=1e-9)
    assert sde.sigma_bars[0] == 0
    assert sde.sigma_bars[-1] == pytest.approx(
        sde.max_sigma / 255 * np.sqrt(1 - sde.eps**2), rel=1e-6
    )


@given(sdes)
def test_noise_grows_and_signal_fades_with_time(sde):
    assert (np.diff(sde.sigma_bars) > 0).all()
    assert (np.diff(sde.decays) < 0).all()
    for table in (sde.thetas, sde.sigmas, sde.thetas_cumsum, sde.sigma_bars, sde.decays):
        assert table.shape == (sde.steps + 1,)
        assert table.dtype == np.float64


@given(sdes, st.integers(0, 99))
def test_the_optimum_step_at_time_one_returns_the_clean_image(sde, seed):
    x, x0, mu = images(seed, 3)
    t = jnp.array([1, 1])
    np.testing.assert_allclose(sde.optimum(x, x0, mu, t), x0, atol=1e-6)
    np.testing.assert_allclose(sde.optimum_std(t), 0, atol=1e-9)


@given(sdes, st.data())
def test_the_optimum_step_keeps_the_marginals(sde, data):
    """From x_t on its mean it reaches the mean of x_{t-1}; variances add up to the next one's."""
    t = np.array([data.draw(st.integers(1, sde.steps)) for _ in range(2)])
    x0, mu = images(0, 2)
    reached = sde.optimum(sde.mean(x0, mu, t), x0, mu, t)
    np.testing.assert_allclose(reached, sde.mean(x0, mu, t - 1), atol=1e-5)
    ones, zeros = np.ones_like(mu), np.zeros_like(mu)
    gain = sde.optimum(ones, zeros, zeros, t)[:, 0, 0, 0]  # weight of the state
    variance = (gain * sde.std(t)) ** 2 + sde.optimum_std(t) ** 2
    np.testing.assert_allclose(np.sqrt(variance), sde.std(t - 1), atol=1e-4 * sde.stationary_std)


@given(sdes, st.data(), st.integers(0, 99))
def test_x0_from_noise_inverts_the_forward_process(sde, data, seed):
    x0, mu, noise = images(seed, 3)
    t = np.array([data.draw(st.integers(1, sde.steps)) for _ in range(2)])
    x_t = sde.mean(x0, mu, t) + sde.std(t).reshape(-1, 1, 1, 1) * noise
    found = np.asarray(sde.x0_from_noise(x_t, mu, noise, t))
    for example in range(2):
        tolerance = 1e-6 / sde.decays[t[example]]  # float32 of x_t, divided by a_t
        np.testing.assert_allclose(found[example], x0[example], atol=tolerance)


def test_each_example_has_its_own_time():
    sde = IRSDE()
    x0, mu = images(3, 2)
    together = sde.mean(x0, mu, jnp.array([5, 80]))
    np.testing.assert_array_equal(together[:1], sde.mean(x0[:1], mu[:1], jnp.array([5])))
    np.testing.assert_array_equal(together[1:], sde.mean(x0[1:], mu[1:], jnp.array([80])))


@given(st.integers(1, 200), st.integers(1, 200))
def test_network_time_maps_the_last_step_to_the_trained_one(num_steps, sample_steps):
    sde = IRSDE(num_steps=num_steps, sample_steps=sample_steps)
    t = jnp.arange(sample_steps + 1)
    expected = np.arange(sample_steps + 1) * num_steps / sample_steps
    np.testing.assert_allclose(sde.network_time(t), expected, rtol=1e-6)
    assert sde.network_time(t).dtype == jnp.float32


def test_network_time_is_the_table_time_without_rebuilt_tables():
    np.testing.assert_array_equal(IRSDE().network_time(jnp.array([1, 100])), [1.0, 100.0])


def test_equal_sdes_share_one_compilation():
    traces = []

    def program(sde, t):
        traces.append(sde)
        return sde.std(t)

    jitted = jax.jit(program, static_argnums=0)
    used = IRSDE()
    assert used.sigma_bars.size == 101  # tables already computed: no part of the identity
    jitted(used, jnp.array([1]))
    jitted(IRSDE(), jnp.array([1]))
    assert len(traces) == 1
    jitted(IRSDE(eps=0.01), jnp.array([1]))
    assert len(traces) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 50},
        {"max_sigma": 25.0},
        {"eps": 0.01},
        {"schedule": "linear"},
        {"sample_steps": 10},
    ],
)
def test_every_attribute_is_part_of_the_identity(change):
    assert IRSDE() == IRSDE()
    assert hash(IRSDE()) == hash(IRSDE())
    assert IRSDE(**change) != IRSDE()
    assert IRSDE(**change) == IRSDE(**change)


def test_an_sde_cannot_be_changed():
    with pytest.raises(AttributeError):
        IRSDE().eps = 0.1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_steps", 0),
        ("num_steps", -3),
        ("sample_steps", 0),
        ("eps", 0.0),
        ("eps", 1.0),
        ("eps", float("nan")),
        ("max_sigma", 0.0),
        ("max_sigma", -1.0),
        ("schedule", "cos"),
    ],
)
def test_a_bad_argument_is_named_with_its_value(key, value):
    with pytest.raises(ValueError, match=f"diffusion.{key}={value!r}"):
        IRSDE(**{key: value})


def test_an_unknown_schedule_lists_the_known_ones():
    with pytest.raises(ValueError, match="cosine, linear, constant"):
        theta_schedule("sigmoid", 10)


def test_every_time_of_a_long_chain_has_noise():
    sde = IRSDE(num_steps=100_000)
    assert sde.sigma_bars[0] == 0
    assert (sde.sigma_bars[1:] > 0).all()
    score = sde.score_from_noise(jnp.ones((1, 2, 2, 3)), jnp.array([1]))
    assert jnp.isfinite(score).all()
