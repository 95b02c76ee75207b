"""The average's warm-up against the released program, and the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.config import base_config
from tpgdiff_jax.training.state import learning_rate_schedule, make_optimizer, update_ema


def test_average_follows_the_released_program(golden):
    arrays = golden("ema")
    options = base_config().ema
    assert (options.decay, options.every_steps) == (0.995, 10)

    def advance(average, step_and_value):
        step, value = step_and_value
        average = update_ema({"w": average}, {"w": value}, step, options)["w"]
        return average, average

    online = jnp.asarray(arrays["online"])
    steps = jnp.arange(len(online))
    _, averages = jax.jit(lambda: jax.lax.scan(advance, online[0], (steps, online)))()
    np.testing.assert_allclose(averages, arrays["ema"], rtol=2e-6)


def test_learning_rate_warms_up_and_falls_to_its_end():
    optim = base_config().optim
    optim.steps, optim.warmup_steps, optim.learning_rate = 1000, 100, 1e-3
    rate = learning_rate_schedule(optim)
    assert rate(0) == 0
    assert rate(50) == pytest.approx(5e-4)
    assert rate(100) == pytest.approx(1e-3)
    assert rate(1000) == pytest.approx(optim.final_learning_rate)


def test_released_learning_rate_starts_at_its_peak():
    optim = base_config().optim
    rate = learning_rate_schedule(optim)
    assert rate(0) == pytest.approx(2e-4)
    assert rate(optim.steps // 2) == pytest.approx((2e-4 + 1e-6) / 2)


def test_clipping_bounds_the_gradient():
    optim = base_config().optim
    gradient = {"w": jnp.array([300.0, 400.0])}
    moments = {}
    for clip in (0.0, 1.0):
        optim.clip_norm = clip
        tx = make_optimizer(optim)
        _, state = tx.update(gradient, tx.init(gradient), gradient)
        moments[clip] = optax_first_moment(state)
    np.testing.assert_allclose(moments[0.0], 0.1 * np.array([300.0, 400.0]), rtol=1e-5)
    np.testing.assert_allclose(moments[1.0], 0.1 * np.array([0.6, 0.8]), rtol=1e-5)


def optax_first_moment(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return next(leaf for path, leaf in leaves if "mu" in jax.tree_util.keystr(path))


def test_muon_gives_faint_directions_as_large_a_step_as_strong_ones():
    optim = base_config().optim
    optim.name = "muon"
    params = {"conv": {"kernel": jnp.zeros((1, 1, 2, 2)), "bias": jnp.zeros(2)}}
    gradient = {
        "conv": {"kernel": jnp.diag(jnp.array([1.0, 0.01]))[None, None], "bias": jnp.ones(2)}
    }
    tx = make_optimizer(optim)
    updates, _ = tx.update(gradient, tx.init(params), params)
    strong, faint = jnp.abs(jnp.diagonal(updates["conv"]["kernel"][0, 0]))
    assert faint > 0.2 * strong
    np.testing.assert_allclose(updates["conv"]["bias"], -0.1 * optim.learning_rate, rtol=0.5)
