"""Ours against the released program: the same weights, inputs and threads, in turns in one run."""

import os
import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from launch.bench import model, presets
from launch.bench.measure import Program, in_turns
from launch.bench.model import Row
from launch.bench.reference import FORMS, Released
from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE

DTYPES = ("float32", "bfloat16")
Runner = Callable[[], Any]


def bench_against(
    config: ConfigDict, folder: str, repeats: int, steps: int | None = None
) -> list[Row]:
    """Time both programs in turns, in both types; the released one also with channels last.

    Args:
      config: the UNet, its batch and crop size; must have the released structure.
      folder: a checkout of the released program.
      repeats: counted turns.
      steps: network calls of a whole chain; None measures forward pass and training step.

    Returns:
      a row for each work and form: seconds, and in the rows of ours `times_faster` than the best
      form of the released program in the same type, by the fastest turns (above 1: ours is
      faster); `agreement`, the largest difference of both forward passes in float32, relative to
      the largest value.
    """
    _, params, batch = model.system(config)
    works = ("forward", "train step") if steps is None else (f"chain of {steps}",)
    rows = []
    for work in works:
        runners = {}
        for form in FORMS:
            theirs = Released(folder, config, params, form)
            theirs.torch.set_num_threads(_threads())
            runners[f"released, {form}"] = _theirs(theirs, work, batch, steps)
        runners |= {f"ours, {d}": _ours(config, d, work, params, batch, steps) for d in DTYPES}
        print(f"{work}: loaded and compiled; {repeats + 1} turns of {len(runners)}", flush=True)
        found = _rows(config, work, in_turns(runners, repeats))
        agreement = _agreement(runners) if work == "forward" else None
        rows += [row | {"agreement": agreement} for row in found]
    return rows


def _ours(config, dtype, work, params, batch, steps) -> Runner:
    config = presets.sized(config, None, None, dtype)
    if steps is None:
        planned = model.plan(config, work)
        args = list(planned.args)

        def run():
            result = jax.block_until_ready(planned.program.compiled(*args))
            if work == "train step":  # the state was given away
                args[0] = result[0]
            return result

        return run
    unet, sde = model.system(config)[0], IRSDE(**config.diffusion)

    def chain(params, lq, priors, key):
        def denoise(x_t, mu, t):
            return unet.apply({"params": params}, x_t, mu, t, priors)

        options = {"steps": steps, "prediction": config.model.prediction}
        return samplers.sample("posterior", denoise, sde, lq, key, **options)

    inputs = (params, batch["lq"], batch["priors"], jax.random.key(0))
    compiled = Program(chain, inputs).compiled
    return lambda: jax.block_until_ready(compiled(*inputs))


def _theirs(theirs: Released, work: str, batch: dict[str, Any], steps: int | None) -> Runner:
    if work == "forward":
        return theirs.forward(batch)
    if work == "train step":
        return theirs.train_step(batch)
    return theirs.sample(batch["lq"], batch["priors"], steps)


def _rows(config: ConfigDict, work: str, seconds: dict[str, list[float]]) -> list[Row]:
    # The fastest turns are compared: whatever else runs on the machine only adds.
    best = {name: min(values) for name, values in seconds.items()}
    size, rows = config.data.crop_size, []
    for name, values in seconds.items():
        dtype = name.split(", ")[1]
        released = [s for n, s in best.items() if n.startswith(f"released, {dtype}")]
        ratio = min(released) / best[name] if name.startswith("ours") else None
        row = {"what": work, "program": name, "batch": config.data.batch_size}
        row |= {
            "size": f"{size}x{size}",
            "threads": _threads(),
            "seconds": statistics.median(values),
        }
        rows.append(row | {"least": min(values), "most": max(values), "times_faster": ratio})
    return rows


def _agreement(runners: dict[str, Runner]) -> float:
    """Return how far both float32 answers are apart, relative to the largest value."""
    ours, theirs = (np.asarray(runners[f"{who}, float32"]()) for who in ("ours", "released"))
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def _threads() -> int:
    """Return the processor cores at hand, which XLA's CPU backend uses all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
