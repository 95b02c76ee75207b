"""The UNet by itself: forward pass, gradient, and the whole training step.

Priors are given, as numbers drawn at random; `sample` and `priors` measure where they come from.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from launch.bench import flops, kernels
from launch.bench.measure import Program, Timing, matrix_peak
from launch.bench.weights import random_system
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.loss import diffuse, diffusion_loss
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.models.unet import ConditionalUNet
from tpgdiff_jax.priors import Priors
from tpgdiff_jax.priors.semantic import unit_length
from tpgdiff_jax.training.diffusion_step import draw
from tpgdiff_jax.training.speed import step_flops
from tpgdiff_jax.training.state import create_state, make_optimizer
from tpgdiff_jax.training.step import train_step

WORKS = ("forward", "forward + backward", "train step")
Row = dict[str, Any]


def bench_model(
    config: ConfigDict, repeats: int, works: Sequence[str] = WORKS, side: int | None = None
) -> list[Row]:
    """Measure the UNet of a configuration at its batch and crop size.

    Args:
      config: reads `model`, `diffusion`, `loss`, `optim`, `ema` and `data`.
      repeats: counted runs of each.
      works: which of `WORKS`.
      side: see `matrix_peak`.
    """
    jobs = [(work, plan(config, work)) for work in works]
    return [measure(config, *job, repeats, side) for job in jobs]


@dataclasses.dataclass
class Planned:
    """A program and its arguments."""

    program: Program
    args: Sequence[Any]


def plan(config: ConfigDict, work: str, pool: Executor | None = None) -> Planned:
    """Prepare one of `WORKS`.

    Args:
      config, work: as for `bench_model`.
      pool: compiles it meanwhile, see `Program`.
    """
    unet, params, batch = system(config)
    if work == "forward":
        inputs = (params, batch["x_t"], batch["lq"], batch["t"], batch["priors"])
        return Planned(Program(functools.partial(_forward, unet), inputs, pool=pool), inputs)
    loss = functools.partial(_loss, unet=unet, sde=IRSDE(**config.diffusion), config=config)
    keys = jax.random.split(jax.random.key(1), len(batch["t"]))
    if work == "forward + backward":
        gradient = jax.value_and_grad(loss, has_aux=True)
        inputs = (params, {}, batch, keys)
        return Planned(Program(gradient, inputs, pool=pool), inputs)
    optimizer = make_optimizer(config.optim)
    state = jax.jit(lambda params: create_state(params, optimizer))(params)
    options = {"loss_fn": loss, "optimizer": optimizer, "config": config}
    inputs = (state, {}, batch, jax.random.key(2))
    step = Program(functools.partial(train_step, **options), inputs, donate=[0], pool=pool)
    return Planned(step, inputs)


def system(config: ConfigDict) -> tuple[ConditionalUNet, Any, dict[str, Any]]:
    """Return the UNet, its weights, and a batch {gt, lq, x_t: [B, H, W, 3], t [B], priors}."""
    unet = tpgdiff.build(config).unet
    params = random_system(config)[1]["params"]["unet"]
    size, count = config.data.crop_size, config.data.batch_size
    keys = jax.random.split(jax.random.key(0), 6)
    shape = (count, size, size, 3)
    gt, lq = (jax.random.uniform(key, shape) for key in keys[:2])
    t = jnp.full((count,), 50, jnp.int32)
    x_t = diffuse(IRSDE(**config.diffusion), gt, lq, t, jax.random.normal(keys[2], shape))
    priors = Priors(
        degradation=jax.random.normal(keys[3], (count, 512)) if unet.use_degradation else None,
        semantic=unit_length(jax.random.normal(keys[4], (count, 512)))
        if unet.use_semantic
        else None,
        structure=jax.random.normal(keys[5], (count, 64, 256)) if unet.use_structure else None,
    )
    batch = {"gt": gt, "lq": lq, "x_t": x_t, "t": t, "priors": priors}
    return unet, jax.tree.map(jnp.asarray, params), batch


def _forward(unet, params, x_t, lq, t, priors):
    return unet.apply({"params": params}, x_t, lq, t, priors)


def _loss(params, frozen, batch, keys, *, unet, sde, config):
    """Return the loss of stage two with given priors; a `training.step.Loss`."""
    gt, lq = batch["gt"], batch["lq"]
    t, noise, _ = draw(keys, gt.shape[1:], sde=sde, config=config)
    x_t = diffuse(sde, gt, lq, t, noise)
    output = _forward(unet, params, x_t, lq, t, batch["priors"])
    options = {"prediction": config.model.prediction, "objective": config.loss.objective}
    each = diffusion_loss(sde, output, x_t, gt, lq, t, distance=config.loss.distance, **options)
    return each.mean(), {"loss": each.mean()}


def measure(
    config: ConfigDict, work: str, planned: Planned, repeats: int, side: int | None = None
) -> Row:
    """Run what was planned and return a row of the table; arguments as for `bench_model`."""
    batch, size = config.data.batch_size, config.data.crop_size
    timing, _ = planned.program.time(planned.args, repeats)
    passes = 1 if work == "forward" else 3
    known = passes * batch * flops.closed_form(size**2) if is_released_size(config) else None
    return common_row(config, work, timing, planned, side) | {"flop_closed_form": known}


def common_row(
    config: ConfigDict, work: str, timing: Timing, planned: Planned, side: int | None = None
) -> Row:
    """Return the columns that every measurement of the network has; `side`: see `matrix_peak`."""
    batch, size, dtype = config.data.batch_size, config.data.crop_size, config.model.dtype
    peak = matrix_peak(dtype, side)
    return {
        "what": work,
        "dtype": dtype,
        "batch": batch,
        "size": f"{size}x{size}",
        **timing.row(),
        "images_per_second": batch / timing.median,
        **planned.program.memory_row(),
        "flop_program": step_flops(planned.program.compiled),
        "flop_counted": planned.program.flop,
        "matrix_peak": peak,
        "share_of_peak": planned.program.flop / timing.median / peak,
        "attention": kernels.attention(planned.program.compiled, _tokens(config)),
        "custom_calls": kernels.custom_calls(planned.program.compiled),
    }


def is_released_size(config: ConfigDict) -> bool:
    """Tell whether the closed form of operations holds for a configuration's UNet."""
    model = config.model
    sizes = (model.width, tuple(model.multipliers), model.attention_heads, model.head_dim)
    uses = model.use_degradation and model.use_semantic and model.use_structure
    return sizes == (64, (1, 2, 4, 8), 4, 32) and not model.first_attention_level and uses


def _tokens(config: ConfigDict) -> int:
    """Return how many pixels attend to each other where they are most."""
    multiple = 2 ** len(config.model.multipliers)
    return (2 * math.ceil(config.data.crop_size / multiple)) ** 2
