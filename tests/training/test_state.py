"""The average's warm-up against the released program, and the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.config import base_config
from tpgdiff_jax.training.state import (
    averaged,
    create_state,
    learning_rate_schedule,
    make_optimizer,
    update_ema,
)


def test_average_follows_the_released_program(golden):
    arrays = golden("ema")
    options = base_config().ema
    assert (options.decay, options.every_steps) == (0.995, 10)
    timing = {name: options[name] for name in ("decay", "every_steps", "start_step")}

    def advance(average, step_and_value):
        step, value = step_and_value
        average = update_ema({"w": average}, {"w": value}, step, **timing)["w"]
        return average, average

    online = jnp.asarray(arrays["online"])
    steps = jnp.arange(len(online))
    _, averages = jax.jit(lambda: jax.lax.scan(advance, online[0], (steps, online)))()
    np.testing.assert_allclose(averages, arrays["ema"], rtol=2e-6)


def test_averages_are_float32_and_move_by_less_than_bfloat16_can_hold():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    state = create_state(params, make_optimizer(base_config().optim), averages=1)
    for average in (state.ema, *state.more_ema):
        assert average["w"].dtype == jnp.float32
        assert average["w"] is not params["w"]
    assert state.params["w"].dtype == jnp.bfloat16
    timing = {"decay": 0.995, "every_steps": 1, "start_step": 0}
    near = {"w": jnp.full(3, 1.0078125, jnp.bfloat16)}  # the number next to 1 in bfloat16

    def move(average, step):
        return update_ema(average, near, step, **timing), None

    steps = jnp.arange(5000, 7000)
    found, _ = jax.jit(lambda start: jax.lax.scan(move, start, steps))(state.ema)
    np.testing.assert_allclose(found["w"], 1.0078125, atol=1e-5)


def test_averages_of_float32_parameters_are_copies():
    params = {"w": jnp.ones(3)}
    state = create_state(params, make_optimizer(base_config().optim), averages=1)
    places = [tree["w"].unsafe_buffer_pointer() for tree in (params, state.ema, state.more_ema[0])]
    assert len(set(places)) == 3  # a step gives each of them away


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


def test_a_multistep_rate_falls_at_its_milestones():
    optim = base_config().optim
    optim.update({"schedule": "multistep", "milestones": (100, 200), "decay_factor": 0.1})
    optim.update({"learning_rate": 1e-3, "warmup_steps": 10})
    rate = learning_rate_schedule(optim)
    found = [float(rate(step)) for step in (0, 5, 10, 99, 101, 199, 201, 5000)]
    np.testing.assert_allclose(found, [0, 5e-4, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-5)
    optim.schedule = "linear"
    with pytest.raises(ValueError, match=r"schedule='linear'.*cosine, multistep"):
        learning_rate_schedule(optim)


def test_lion_steps_by_the_sign_and_decays_what_has_two_axes():
    optim = base_config().optim
    optim.update({"name": "lion", "learning_rate": 1e-3, "weight_decay": 0.1})
    params = {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}
    gradient = jax.tree.map(lambda leaf: 1e-6 * jnp.ones_like(leaf), params)
    tx = make_optimizer(optim)
    updates, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(updates["bias"], -1e-3, rtol=1e-5)
    np.testing.assert_allclose(updates["kernel"], -1e-3 * (1 + 0.1 * 2), rtol=1e-5)


def test_the_average_in_use_is_chosen_by_its_decay():
    config = base_config()
    config.ema.more_decays = (0.9, 0.9999)
    state = create_state({"w": jnp.zeros(1)}, make_optimizer(config.optim), averages=2)
    slow = {"w": jnp.ones(1)}
    state = state.replace(more_ema=(state.more_ema[0], slow))
    assert averaged(state, config) is state.ema
    config.eval.ema_decay = 0.9999
    assert averaged(state, config) is slow
    config.eval.ema_decay = 0.5
    with pytest.raises(ValueError, match=r"ema_decay=0.5.*0.995, 0.9, 0.9999"):
        averaged(state, config)


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
