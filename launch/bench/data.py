"""The data pipeline: what each step costs, how fast batches come, how much memory it holds."""

import itertools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tpgdiff_jax.data.degradations.mix import Mixture, Recipe, degrade
from tpgdiff_jax.data.degradations.registry import DEGRADATIONS
from tpgdiff_jax.data.pipeline import random_crops, training_batches
from tpgdiff_jax.data.sources import PhotoFolder

PATCH = 256


def milliseconds(function: Callable[[int], object], count: int) -> float:
    """Return the median time of `function(i)`, i = 0..count-1, in milliseconds."""
    times = []
    for index in range(count):
        started = time.perf_counter()
        function(index)
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


def bench_steps(folder: str, count: int = 20) -> list[dict[str, Any]]:
    """Measure decoding, cropping and every degradation, per patch.

    Args:
      folder: of photos of at least 256 pixels.
      count: patches each is measured on.
    """
    photos = PhotoFolder(folder, min_size=PATCH)
    rng = np.random.default_rng(0)
    patches = [
        random_crops(rng, (photos[int(rng.integers(len(photos)))],), PATCH)[0] for _ in range(count)
    ]
    whole = photos[0]
    rows = [
        ("decode", milliseconds(lambda i: photos[i % len(photos)], 3 * count)),
        ("crop", milliseconds(lambda i: random_crops(rng, (whole,), PATCH), count)),
    ]
    for name in DEGRADATIONS:
        rows.append((name, milliseconds(_degrading(patches, name), count)))
    mean = np.mean([value for name, value in rows[2:]])
    rows.append(("mean of the degradations", float(mean)))
    return [{"what": name, "ms per patch": round(value, 2)} for name, value in rows]


def _degrading(patches: list[np.ndarray], name: str) -> Callable[[int], np.ndarray]:
    def degraded(index: int) -> np.ndarray:
        recipe = Recipe(((name, 1 + 4 * index / len(patches)),), index)
        return degrade(patches[index], recipe)

    return degraded


def bench_pipeline(folder: str, seconds: float = 20.0) -> list[dict[str, Any]]:
    """Measure patches per second on one core, for mixtures that a configuration may ask for.

    Args:
      folder: as for `bench_steps`.
      seconds: that each mixture is followed.
    """
    rows = []
    names = tuple(DEGRADATIONS)
    five = ("noise", "blur", "low_light", "haze", "rain")
    for title, mixture, cache_mb in (
        ("default: five degradations", Mixture(five), 256),
        ("default, nothing kept decoded", Mixture(five), 0),
        ("all degradations", Mixture(names), 256),
        ("all, up to 3 at once", Mixture(names, max_mixed=3), 256),
    ):
        photos = PhotoFolder(folder, min_size=PATCH, cache_mb=cache_mb)
        batches = iter(
            training_batches(
                [photos],
                seed=0,
                crop_size=PATCH,
                batch_size=8,
                mixture=mixture,
                multi_hot=True,
                read_threads=1,
                prefetch_mb=1,
            )
        )
        next(batches)
        done, busy, started = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - started < seconds:
            next(batches)
            done += 8
        busy = time.process_time() - busy
        rows.append({"mixture": title, "patches/s/core": round(done / busy)})
    return rows


def bench_memory(folder: str, batches: int, workers: int = 4) -> list[dict[str, Any]]:
    """Follow the memory of a pipeline with worker processes over many batches.

    Args:
      folder: as for `bench_steps`.
      batches: how many, of two 64-pixel crops.
      workers: processes that make them.
    """
    photos = PhotoFolder(folder, min_size=PATCH, cache_mb=64)
    mixture = Mixture(("noise", "blur", "low_light", "haze", "rain"))
    iterator = iter(
        training_batches(
            [photos], seed=0, crop_size=64, batch_size=2, mixture=mixture, workers=workers
        )
    )
    marks = {max(1, batches * part // 10) for part in range(11)}
    rows = []
    for number in range(1, batches + 1):
        next(iterator)
        if number in marks:
            total, main = memory_mib()
            row = {
                "batches": number,
                "all processes MiB": round(total),
                "main MiB": round(main),
            }
            rows.append(row)
    return rows


def memory_mib() -> tuple[float, float]:
    """Return the proportional memory of this process and its descendants, and of this one alone."""
    own = pathlib.Path("/proc/self")
    pids = [own.resolve().name]
    for pid in pids:
        pids += itertools.chain.from_iterable(_children(pid))
    values = [_proportional_mib(pid) for pid in pids]
    return sum(values), values[0]


def _children(pid: str) -> Iterator[list[str]]:
    for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield file.read_text().split()
        except OSError:  # the process has ended meanwhile
            continue


def _proportional_mib(pid: str) -> float:
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
