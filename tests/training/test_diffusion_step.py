"""One training step: pure, the same on any mesh, and it learns."""

import jax
import numpy as np
import pytest

from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.training.diffusion_step import loss_fn, make_train_step
from tpgdiff_jax.training.state import make_optimizer
from tpgdiff_jax.training.train import init_state

MESHES = {
    "one device": ({"data": 1}, 1),
    "data 8": ({"data": 8}, 8),
    "data 2, fsdp 2, spatial 2": ({"data": 2, "fsdp": 2, "spatial": 2}, 8),
}


def batch_of(config, seed=0):
    rng = np.random.default_rng(seed)
    size, count = config.data.crop_size, config.data.batch_size
    gt = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    label = np.arange(count, dtype=np.int32) % len(config.data.degradations)
    return {"gt": gt, "lq": gt // 2, "label": label}


def run_steps(config, sizes, devices, count=2):
    """Take a few steps on a mesh; return the final state and all losses."""
    full = {"data": 1, "fsdp": 1, "tensor": 1, "spatial": 1} | sizes
    mesh = sharding.make_mesh(full, jax.devices()[:devices])
    model = tpgdiff.build(config)
    make_state, _, shardings = init_state(config, mesh, model)
    images = sharding.batch_sharding(mesh, 4)
    step = make_train_step(
        model,
        IRSDE(**config.diffusion),
        make_optimizer(config.optim),
        config,
        state_shardings=shardings,
        batch_shardings={"gt": images, "lq": images, "label": sharding.batch_sharding(mesh, 1)},
        replicated=sharding.replicated(mesh),
    )
    key = jax.device_put(jax.random.key(3), sharding.replicated(mesh))
    state, losses = make_state(), []
    for index in range(count):
        state, metrics = step(state, sharding.to_global(batch_of(config, index), mesh), key)
        losses.append(float(metrics["loss"]))
    return jax.device_get(state), losses


def test_sharded_steps_equal_unsharded_ones(tiny_config):
    tiny_config.sharding = ((".*kernel", "fsdp"), (".*", "replicate"))
    reference, expected = run_steps(tiny_config, *MESHES["one device"])
    for name in list(MESHES)[1:]:
        state, losses = run_steps(tiny_config, *MESHES[name])
        np.testing.assert_allclose(losses, expected, rtol=1e-5, err_msg=name)
        # Adam divides by the gradient's own size, so rounding shows up to a learning rate.
        for a, b in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(reference.params), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=2 * tiny_config.optim.learning_rate)


def test_loss_is_pure_and_reports_every_class(tiny_config):
    model, sde = tpgdiff.build(tiny_config), IRSDE(**tiny_config.diffusion)
    make_state, _, _ = init_state(
        tiny_config,
        sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1, "spatial": 1}, jax.devices()[:1]),
        model,
    )
    params, batch, key = make_state().params, batch_of(tiny_config), jax.random.key(0)
    evaluate = jax.jit(
        lambda key: loss_fn(params, batch, key, model=model, sde=sde, config=tiny_config)
    )
    (first, metrics), (second, _) = evaluate(key), evaluate(key)
    assert first == second
    assert evaluate(jax.random.key(1))[0] != first
    classes = [metrics["diffusion_noise"], metrics["diffusion_haze"]]
    assert float(metrics["diffusion"]) == pytest.approx(np.mean(classes), rel=1e-5)
    weight = tiny_config.loss.classification_weight
    total = metrics["diffusion"] + weight * metrics["classification"]
    assert float(first) == pytest.approx(float(total), rel=1e-6)


def test_steps_on_one_batch_lower_its_loss(tiny_config):
    tiny_config.loss.time_power = 1000.0  # always t = T: the loss then falls without noise
    model, sde = tpgdiff.build(tiny_config), IRSDE(**tiny_config.diffusion)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1, "spatial": 1}, jax.devices()[:1])
    make_state, _, shardings = init_state(tiny_config, mesh, model)
    one = sharding.replicated(mesh)
    step = make_train_step(
        model,
        sde,
        make_optimizer(tiny_config.optim),
        tiny_config,
        state_shardings=shardings,
        batch_shardings=one,
        replicated=one,
    )
    state, losses = make_state(), []
    for _ in range(30):
        state, metrics = step(state, batch_of(tiny_config), jax.random.key(0))
        losses.append(float(metrics["diffusion"]))
    assert losses[-1] < 0.8 * losses[0]
    assert int(state.step) == 30
