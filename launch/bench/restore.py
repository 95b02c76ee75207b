"""What restoration costs in seconds and memory: by size, in windows, and for a mixed folder.

Sizes are measured in a process each, since a process remembers only its largest peak of memory.
"""

import concurrent.futures
import functools
import math
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from launch.bench.measure import peak_bytes
from launch.bench.sample import picture
from launch.bench.weights import random_system
from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.inference import stepwise
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.models.unet import pad_to_multiple

SIZES = ((256, 256), (512, 512), (1080, 1920), (4096, 4096))
FOLDER = (  # of ten photos, as cameras and the web have them
    *((321, 481), (481, 321), (256, 256), (240, 320), (300, 451)),
    *((427, 640), (480, 640), (200, 300), (512, 512), (97, 131)),
)
_WINDOW = 512
_LARGEST_WHOLE = 2**21  # pixels
_RUN_TWICE = 512**2  # pixels; larger pictures are run once, with their compilation


def bench_sizes(
    config: ConfigDict,
    steps: int,
    sizes: Sequence[tuple[int, int]] = SIZES,
    isolated: bool = True,
) -> list[dict[str, Any]]:
    """Measure seconds and peak memory for every size: whole, in windows, and as a loop of calls.

    Args:
      config: of a system, which gets random weights.
      steps: network calls per image.
      sizes: (height, width) of each picture.
      isolated: in a process each; else their peaks of memory are those of all before, too.
    """
    rows = []
    for size in sizes:
        is_small = math.prod(size) <= _LARGEST_WHOLE
        works = [("compiled, whole", _compiled, (0, steps))] * is_small
        works += [("compiled, windows of 512", _compiled, (_WINDOW, steps))] * (max(size) > _WINDOW)
        works += [("loop of calls, whole", _loop_of_calls, (steps,))] * is_small
        for name, function, args in works:
            run = functools.partial(function, config, size, *args)
            (wall, cpu), peak = _in_own_process(run) if isolated else _here(run)
            row = {"size": f"{size[0]}x{size[1]}", "how": name, "calls": steps, "seconds": wall}
            rows.append(row | {"CPU s": round(cpu, 2), "peak_bytes": peak})
            print(f"{row['size']}, {name}: {wall:.2f} s", flush=True)
    return rows


def bench_folder(
    config: ConfigDict, sizes: Sequence[tuple[int, int]] = FOLDER, isolated: bool = True
) -> list[dict[str, Any]]:
    """Restore pictures of mixed sizes twice, in processes that share a compile cache.

    Args:
      config, sizes, isolated: as for `bench_sizes`.
    """
    with tempfile.TemporaryDirectory() as cache:
        rows = []
        for name in ("first run", "second run"):
            run = functools.partial(_restore_folder, config, sizes, cache if isolated else None)
            (seconds, programs), _ = _in_own_process(run) if isolated else _here(run)
            rows.append({"run": name, "seconds": seconds, "programs": programs})
    return rows


def _in_own_process(run: Any) -> tuple[Any, int]:
    """Return what a function returns in a new process, and that process's peak memory."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_here, run).result()


def _here(run: Any) -> tuple[Any, int]:
    return run(), peak_bytes()


def _clocks() -> np.ndarray:
    """Return (wall seconds, CPU seconds); the second hardly depends on what else runs."""
    return np.array([time.perf_counter(), time.process_time()])


def _best(run: Any, size: tuple[int, int]) -> tuple[float, float]:
    times = []
    for _ in range(2 if math.prod(size) <= _RUN_TWICE else 1):
        started = _clocks()
        run()
        times.append(_clocks() - started)
    return tuple(np.min(times, axis=0).tolist())


def _compiled(
    config: ConfigDict, size: tuple[int, int], tile: int, steps: int
) -> tuple[float, float]:
    restorer, image = Restorer(*random_system(config), config), picture(size)
    return _best(lambda: restorer(image, steps=steps, tile=tile), size)


def _loop_of_calls(config: ConfigDict, size: tuple[int, int], steps: int) -> tuple[float, float]:
    """Restore a whole image as a loop in Python: one call of the network, then eager updates."""
    model, variables = random_system(config)
    variables = jax.tree.map(jnp.asarray, variables)
    sde = IRSDE(**config.diffusion)
    mu = pad_to_multiple(jnp.asarray(picture(size)[None] / 255, jnp.float32), 64)
    extract = jax.jit(lambda v, mu: model.apply(v, mu, method="extract_priors"))
    network = jax.jit(lambda v, x, mu, t, p: model.apply(v, x, mu, t, p, method="denoise"))
    visited = samplers.step_times(sde, steps)
    table = samplers.step_coefficients("posterior", sde, visited)

    def run():
        priors = extract(variables, mu)  # once, as the compiled program does
        y = sde.stationary_std * jax.random.normal(jax.random.key(0), mu.shape)
        for index, (c, t) in enumerate(zip(table, visited, strict=False)):
            q = network(variables, mu + y, mu, np.full(1, t, np.float32), priors)
            z = jax.random.normal(jax.random.key(index + 1), mu.shape)
            y = c[0] * y + c[1] * q + c[3] * z
        return np.asarray(mu + y)

    return _best(run, size)


def _restore_folder(
    config: ConfigDict, sizes: Sequence[tuple[int, int]], cache: str | None
) -> tuple[float, int]:
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
    restorer = Restorer(*random_system(config), config)
    images = [picture(size) for size in sizes]
    before, started = stepwise.KEPT.made, time.perf_counter()
    restorer(images)
    return time.perf_counter() - started, stepwise.KEPT.made - before
