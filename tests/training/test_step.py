"""The optimiser step itself, with a loss small enough to be checked by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tpgdiff_jax.config import base_config
from tpgdiff_jax.distributed import batches, sharding
from tpgdiff_jax.training import step
from tpgdiff_jax.training.state import create_state, make_optimizer
from tpgdiff_jax.training.step import accumulate, jit_train_step, train_step


def noisy_loss(params, frozen, batch, keys):
    """Least squares with noise of each example's own key; a metric that some parts lack."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    error = (batch["x"] + noise) @ params["w"] - batch["y"] + frozen["shift"]
    loss = jnp.square(error).mean()
    of_first_class = jnp.where(batch["label"] == 0, jnp.square(error), 0)
    count = (batch["label"] == 0).sum()
    return loss, {"loss": loss, "class/first": of_first_class.sum() / count}


@pytest.fixture
def config():
    config = base_config()
    config.optim.update({"steps": 100, "learning_rate": 1e-2})
    config.ema.update({"every_steps": 1, "start_step": 0, "more_decays": (0.5,)})
    return config


FROZEN = {"shift": jnp.float32(0.1)}


def batch_of(count=8, label=0):
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((count, 3)).astype(np.float32),
        "y": rng.standard_normal(count).astype(np.float32),
        "label": np.full(count, label, np.int32),
    }


def first_state(config):
    params = {"w": jnp.array([1.0, -2.0, 0.5])}
    return create_state(params, make_optimizer(config.optim), len(config.ema.more_decays))


def take(config, state, batch, loss_fn=noisy_loss, key=7):
    step = functools.partial(
        train_step, loss_fn=loss_fn, optimizer=make_optimizer(config.optim), config=config
    )
    return jax.jit(step)(state, FROZEN, batch, jax.random.key(key))


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(parts):
    keys = jax.random.split(jax.random.key(0), 8)
    params = {"w": jnp.array([1.0, -2.0, 0.5])}
    whole, metrics = accumulate(noisy_loss, params, FROZEN, batch_of(), keys, parts=1)
    in_parts, same = accumulate(noisy_loss, params, FROZEN, batch_of(), keys, parts=parts)
    np.testing.assert_allclose(in_parts["w"], whole["w"], rtol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-5, err_msg=name)


def test_metrics_that_some_parts_lack_are_those_of_the_others():
    keys = jax.random.split(jax.random.key(0), 4)
    batch = batch_of(4) | {"label": np.array([0, 1, 0, 1], np.int32)}
    params = {"w": jnp.zeros(3)}
    _, whole = accumulate(noisy_loss, params, FROZEN, batch, keys, parts=1)
    # Every second example makes a part: the second part has none of the first class.
    _, found = accumulate(noisy_loss, params, FROZEN, batch, keys, parts=2)
    np.testing.assert_allclose(found["class/first"], whole["class/first"], rtol=1e-5)
    nowhere = batch | {"label": np.ones(4, np.int32)}
    _, found = accumulate(noisy_loss, params, FROZEN, nowhere, keys, parts=2)
    assert np.isnan(found["class/first"])


def test_the_step_number_decides_the_draws(config):
    state = first_state(config)
    losses = [float(take(config, state, batch_of())[1]["loss"]) for _ in range(2)]
    assert losses[0] == losses[1]
    later = state.replace(step=state.step + 1)
    assert float(take(config, later, batch_of())[1]["loss"]) != losses[0]
    assert float(take(config, state, batch_of(), key=8)[1]["loss"]) != losses[0]


def test_averages_of_several_decays_follow_the_parameters(config):
    state = first_state(config)
    for _ in range(30):
        before = state
        state, metrics = take(config, state, batch_of())
    for kept, old, new in (
        (1 - 30 ** (-2 / 3), before.ema, state.ema),
        (0.5, before.more_ema[0], state.more_ema[0]),
    ):
        expected = kept * old["w"] + (1 - kept) * state.params["w"]
        np.testing.assert_allclose(new["w"], expected, rtol=1e-5)
    assert float(metrics["parameter_norm"]) == pytest.approx(
        float(jnp.linalg.norm(state.params["w"]))
    )
    assert metrics["bad_step"] == 0


def test_a_bad_step_is_marked_and_with_skip_changes_nothing_but_its_number(config):
    batch = batch_of()
    batch["y"][3] = np.inf
    state = first_state(config)
    stopped, metrics = take(config, state, batch)
    assert metrics["bad_step"] == 1
    assert not np.isfinite(stopped.params["w"]).all()
    config.optim.non_finite = "skip"
    skipped, metrics = take(config, state, batch)
    assert metrics["bad_step"] == 1
    assert int(skipped.step) == 1
    jax.tree.map(np.testing.assert_array_equal, skipped.replace(step=state.step), state)
    moved, metrics = take(config, skipped, batch_of())
    assert metrics["bad_step"] == 0
    assert (moved.params["w"] != state.params["w"]).all()


def test_parts_of_a_sharded_batch_give_the_same_step(config):
    config.optim.accumulate = 2
    sizes = {"data": 4, "fsdp": 2, "tensor": 1, "spatial": 1}
    mesh = sharding.make_mesh(sizes, jax.devices()[:8])
    state, batch = first_state(config), batch_of(16)
    expected, metrics = take(config, state, batch)
    whole = sharding.replicated(mesh)
    run = jit_train_step(
        noisy_loss,
        make_optimizer(config.optim),
        config,
        mesh=mesh,
        state_shardings=jax.tree.map(lambda _: whole, state),
        frozen_shardings=jax.tree.map(lambda _: whole, FROZEN),
        batch_ndims={"x": 2, "y": 1, "label": 1},
    )
    placed = jax.device_put(jax.tree.map(jnp.array, state), whole)
    frozen, key = jax.device_put((FROZEN, jax.random.key(7)), whole)
    found, same = run(placed, frozen, batches.to_global(batch, mesh), key)
    np.testing.assert_allclose(found.params["w"], expected.params["w"], rtol=1e-5)
    np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-5)


def test_a_loss_sees_parameters_that_are_whole_over_fsdp_and_split_over_the_other_axes():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2, "spatial": 1}, jax.devices()[:8])
    split = {"w": NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))}
    params = jax.device_put({"w": jnp.ones((4, 4))}, split)
    loss = step._with_whole_params(lambda params, scale: (params["w"] * scale, {}), split, mesh)
    seen, _ = jax.jit(loss)(params, 2.0)
    expected = NamedSharding(mesh, PartitionSpec(None, "tensor"))
    assert seen.sharding.is_equivalent_to(expected, 2)
    alone = sharding.make_mesh({"data": 8, "fsdp": 1, "tensor": 1, "spatial": 1})
    assert step._with_whole_params(noisy_loss, split, alone) is noisy_loss
