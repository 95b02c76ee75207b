"""bfloat16 restores real pictures as well as float32 does, over the whole chain.

The weights of the package know no linear attention; the slow test trains a network that does.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.bench import options, parity
from tpgdiff_jax.config import base_config
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.training.diffusion_step import loss_fn
from tpgdiff_jax.training.state import create_state, make_optimizer
from tpgdiff_jax.training.step import train_step

STEPS, BATCH, SIZE = 60, 5, 48


def small_config():
    """Return a network with linear attention that learns something within seconds."""
    config = base_config()
    config.model.update({"width": 8, "multipliers": (1, 2), "attention_heads": 1, "head_dim": 8})
    config.model.update({"first_attention_level": 1, "prediction": "x0", "identity_init": True})
    config.model.update({"use_semantic": False, "use_structure": False})
    config.priors.encoder_width = 4
    config.diffusion.max_sigma = 15.0
    config.loss.update({"objective": "residual", "time_power": 20.0, "relative_power": 1.0})
    config.optim.update({"learning_rate": 3e-3, "warmup_steps": 5, "steps": STEPS})
    config.ema.update({"decay": 0.9, "every_steps": 1, "start_step": 0})
    return config


@pytest.fixture(scope="module")
def trained():
    """Return (configuration, variables) of a system trained for a few steps on bundled photos."""
    config = small_config()
    model, sde = tpgdiff.build(config), IRSDE(**config.diffusion)
    optimizer = make_optimizer(config.optim)
    gt = parity.squares(str(options.PHOTOS / "train"), SIZE, BATCH)
    labels = jnp.arange(BATCH) % len(config.data.degradations)
    batch = {"gt": gt, "lq": parity.degraded(gt), "label": labels}
    image = jnp.zeros((1, SIZE, SIZE, 3))
    params = jax.jit(model.init)(jax.random.key(0), image, image, jnp.ones(1))["params"]
    loss = functools.partial(loss_fn, model=model, sde=sde, config=config)
    kinds = {"loss_fn": loss, "optimizer": optimizer, "config": config}
    step = jax.jit(functools.partial(train_step, **kinds), donate_argnums=0)
    state, losses = create_state(params, optimizer), []
    for _ in range(STEPS):
        state, metrics = step(state, {}, batch, jax.random.key(1))
        losses.append(float(metrics["diffusion"]))
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])
    return config, {"params": jax.device_get(state.ema), "frozen": {}}


def test_bfloat16_costs_the_weights_of_the_package_less_than_a_twentieth_of_a_decibel():
    config = base_config()
    config.data.update({"crop_size": 192, "batch_size": 5})
    rows = parity.bench_parity(config, "default", str(options.PHOTOS / "eval"))
    assert all(row["difference_db"] < 0.05 for row in rows)
    assert all(60 < row["db_between"] < 150 for row in rows)  # it was used


@pytest.mark.slow
def test_bfloat16_costs_less_than_a_twentieth_of_a_decibel(trained):
    config, variables = trained
    gt = parity.squares(str(options.PHOTOS / "eval"), 64, 5)
    chains = parity.plan_chains(config, variables, parity.degraded(gt), 10)
    rows = parity.compare(gt, chains)
    assert all(row["difference_db"] < 0.05 for row in rows)
    assert all(row["db_between"] < 150 for row in rows)  # it was used
