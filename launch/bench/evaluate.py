"""What scoring and writing add to the sampling of a benchmark (--mode=eval with weights)."""

import dataclasses
import pathlib
import shutil
import tempfile
import time
from typing import Any

from ml_collections import ConfigDict

from launch.bench.parity import squares
from launch.bench.weights import random_system
from tpgdiff_jax.benchmark.finding import open_set
from tpgdiff_jax.benchmark.job import ROWS, Job
from tpgdiff_jax.benchmark.rows import read_rows
from tpgdiff_jax.benchmark.sets import SetSpec
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.benchmark.work import Task
from tpgdiff_jax.benchmark.worker import System
from tpgdiff_jax.config import base_config
from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.distributed.sharding import make_mesh


def bench_eval(
    config: ConfigDict, photos: str, steps: int, metrics: tuple[str, ...] | None = None
) -> list[dict[str, Any]]:
    """Restore and score photos twice: the first run compiles, the second is timed.

    Args:
      config: of a system, which gets random weights; `data.batch_size` photos of `data.crop_size`.
      photos: folder of clean photos; they are degraded by noise of sigma 25.
      steps: network calls per image.
      metrics: of the input and of the result; those of a benchmark by default.
    """
    settings = dataclasses.replace(read_settings(base_config()), steps=(steps,))
    if metrics is not None:
        settings = dataclasses.replace(settings, metrics=metrics)
    count, size = config.data.batch_size, config.data.crop_size
    mesh = make_mesh(base_config().mesh)
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        (root / "photos").mkdir()
        for index, image in enumerate(squares(photos, size, count)):
            write_image(root / "photos" / f"{index}.png", image)
        spec = SetSpec("noise", "photos", "clean", gt="", sigma=25.0)
        variant = settings.variants("posterior", steps)[0]
        tasks = [Task(item, variant) for item in open_set(spec, root).items]
        job = Job(settings, root / "job", mesh, System(*random_system(config), config))
        started = time.perf_counter()
        job.run(tasks)
        first = time.perf_counter() - started
        shutil.rmtree(root / "job")
        started = time.perf_counter()
        job.run(tasks)
        whole = time.perf_counter() - started
        rows = read_rows(root / "job" / ROWS).values()
        sampling = sum(row["seconds"] for row in rows) / mesh.size
    row = {"what": "benchmark", "dtype": config.model.dtype, "batch": count}
    row |= {"size": f"{size}x{size}", "calls": steps, "seconds": whole, "first run s": first}
    rest = whole - sampling
    share = rest / max(sampling, 1e-3)  # lines keep milliseconds
    return [row | {"sampling s": sampling, "rest s": rest, "rest, share": share}]
