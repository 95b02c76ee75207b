"""A tiny complete system that takes five optimiser steps on any mesh; also a program of its own.

python mesh_steps.py RESULT.npz COORDINATOR PROCESS_ID SIZES: one of two processes of 4 devices.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.config import base_config
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed import batches, rules, sharding
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.training.diffusion_step import loss_fn
from tpgdiff_jax.training.state import create_state, make_optimizer
from tpgdiff_jax.training.step import jit_train_step

STEPS, BATCH = 5, 8
# Tall images: eight devices share the rows, also of maps a sixteenth as high.
ROWS, COLUMNS = 128, 16
# Kernels this small are split, so that nothing that can be split escapes the test.
RULES = tuple((*rule[:2], 64) for rule in rules.DEFAULT_RULES)


def tiny_system():
    """Return a configuration with every branch: UNet, structure with the dog cue, encoder."""
    config = base_config()
    config.model.update({"width": 16, "multipliers": (2, 2), "attention_heads": 2, "head_dim": 16})
    config.priors.update({"encoder_width": 8, "map_size": ROWS, "map_width": 2, "map_max_width": 8})
    config.priors.update({"tokens": 4, "connector_depth": 0})
    config.data.update({"crop_size": ROWS, "batch_size": BATCH, "degradations": ("noise", "haze")})
    config.optim.update({"steps": 100, "learning_rate": 2e-4})
    config.ema.update({"every_steps": 1, "start_step": 1})
    config.sharding = RULES
    return config


def mesh_of(*sizes: int):
    """Return the mesh data x fsdp x tensor x spatial on as many devices as it needs."""
    count = int(np.prod(sizes))
    named = dict(zip(sharding.AXES, sizes, strict=True))
    return sharding.make_mesh(named, jax.devices()[:count])


def host_params(model):
    """Return parameters of which none is zero, in host memory; the same in every process."""
    image = jnp.zeros((1, ROWS, COLUMNS, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, image, jnp.ones(1))["params"]
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        x = rng.standard_normal(leaf.shape)
        x = x / np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0.1 * x
        return np.asarray(x + (path[-1].key == "scale"), leaf.dtype)

    return jax.tree.map_with_path(fill, shapes)


def whole_batch(seed: int):
    """Return a batch as all processes together read it."""
    rng = np.random.default_rng(seed)
    gt = rng.integers(0, 256, (BATCH, ROWS, COLUMNS, 3), np.uint8)
    return {"gt": gt, "lq": gt // 2, "label": np.arange(BATCH, dtype=np.int32) % 2}


def own_share(batch, mesh):
    """Return the part of a batch that this process reads."""
    index, count = batches.process_share(mesh)
    size = BATCH // count
    return {name: value[index * size : (index + 1) * size] for name, value in batch.items()}


def take_steps(config, mesh):
    """Take five steps.

    Returns:
      (loss and gradient norm of each step [5, 2], the state after them in host memory, the state's
      shardings).
    """
    model, optimizer = tpgdiff.build(config), make_optimizer(config.optim)
    params = host_params(model)
    zeros = jax.eval_shape(lambda: create_state(params, optimizer))
    first = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), zeros)
    first = first.replace(params=params, ema=params)
    shardings = sharding.state_shardings(first, mesh, config.sharding)

    def place(value, where):
        return jax.make_array_from_callback(value.shape, where, lambda index: value[index])

    whole = sharding.replicated(mesh)
    sde = IRSDE(**config.diffusion)
    step = jit_train_step(
        functools.partial(loss_fn, model=model, sde=sde, config=config),
        optimizer,
        config,
        mesh=mesh,
        state_shardings=shardings,
        frozen_shardings={},
        batch_ndims={"gt": 4, "lq": 4, "label": 1},
    )
    key = jax.jit(jax.random.key, out_shardings=whole)(3)
    state, told = jax.tree.map(place, first, shardings), []
    for seed in range(STEPS):
        batch = batches.to_global(own_share(whole_batch(seed), mesh), mesh)
        state, metrics = step(state, {}, batch, key)
        told.append([float(metrics[name]) for name in ("loss", "gradient_norm")])
    gathered = jax.jit(lambda tree: tree, out_shardings=whole)((state.params, state.ema))
    return np.array(told), jax.device_get(gathered), shardings


if __name__ == "__main__":
    result, coordinator, process, sizes = sys.argv[1:]
    jax.distributed.initialize(coordinator, 2, int(process))
    mesh = mesh_of(*map(int, sizes.split("x")))
    assert (mesh.size, jax.process_count(), jax.local_device_count()) == (8, 2, 4)
    told, trees, _ = take_steps(tiny_system(), mesh)
    if jax.process_index() == 0:
        leaves = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(trees))}
        np.savez(result, told=told, **leaves)
