"""The whole chain as users run it: priors once, then every step of the sampler, one program."""

import functools
from concurrent.futures import Executor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from launch.bench import flops
from launch.bench.measure import Program
from launch.bench.model import Planned, Row, common_row, is_released_size
from launch.bench.weights import random_system
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.inference.batch import name_hashes, noise_keys, run_batch
from tpgdiff_jax.models import tpgdiff


def bench_sample(
    config: ConfigDict, repeats: int, steps: int, side: int | None = None
) -> list[Row]:
    """Measure the restoration of one batch.

    Args:
      config: the system; `data.batch_size` pictures of `data.crop_size` pixels.
      repeats: counted runs.
      steps: network calls per image.
      side: see `measure.matrix_peak`.
    """
    return [measure(config, steps, plan(config, steps), repeats, side)]


def plan(config: ConfigDict, steps: int, pool: Executor | None = None) -> Planned:
    """Trace the chain of a system with random weights and compile it, in `pool` if given."""
    count, size = config.data.batch_size, config.data.crop_size
    pictures = np.stack([picture((size, size), seed) for seed in range(count)])
    return plan_chain(config, random_system(config)[1], pictures, steps, pool)


def plan_chain(
    config: ConfigDict, variables: Any, lq: np.ndarray, steps: int, pool: Executor | None = None
) -> Planned:
    """Trace the chain of given weights and compile it.

    Args:
      config: of the weights; reads `model`, `priors`, `diffusion` and `eval`.
      variables: the system's {"params", "frozen"}.
      lq: degraded pictures, uint8 [B, H, W, 3], or float in [0, 1].
      steps: network calls per image.
      pool: compiles it meanwhile, see `measure.Program`.
    """
    chain = functools.partial(
        run_batch,
        model=tpgdiff.build(config),
        sde=IRSDE(**config.diffusion),
        sampler=config.eval.sampler,
        steps=steps,
        prediction=config.model.prediction,
        clamp=config.eval.clamp,
    )
    keys = noise_keys(0, name_hashes(str(index) for index in range(len(lq))))
    inputs = (jax.tree.map(jnp.asarray, variables), jnp.asarray(lq), keys)
    return Planned(Program(chain, inputs, pool=pool), inputs)


def measure(
    config: ConfigDict, steps: int, planned: Planned, repeats: int, side: int | None = None
) -> Row:
    """Run what was planned and return a row of the table; arguments as for `bench_sample`."""
    batch, size = config.data.batch_size, config.data.crop_size
    timing, answer = planned.program.time(planned.args, repeats)
    known = steps * batch * flops.closed_form(size**2) if is_released_size(config) else None
    row = common_row(config, f"sample, {config.eval.sampler}", timing, planned, side)
    row |= {"calls": steps, "flop_closed_form": known, "finite": bool(answer.finite.all())}
    return row


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return a smooth random picture, uint8 [H, W, 3], of `size` (height, width)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 16, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))
