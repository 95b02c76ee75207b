"""A tiny system and small test sets."""

import benchmark_rows
import jax
import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.benchmark.finding import open_set
from tpgdiff_jax.benchmark.job import Job
from tpgdiff_jax.benchmark.settings import Variant, read_settings
from tpgdiff_jax.benchmark.work import Task
from tpgdiff_jax.config import base_config
from tpgdiff_jax.distributed.sharding import make_mesh

SIZES = ((48, 56), (48, 56), (40, 50), (56, 48), (48, 56))


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory):
    """A folder with a set of pairs (`pairs/LQ`, `pairs/GT`) and one of clean photos (`clean`)."""
    root, rng = tmp_path_factory.mktemp("benchmarks"), np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(40, 216, (6, 7, 3), np.uint8))
        gt = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        lq = np.clip(gt + rng.normal(0, 12, gt.shape), 0, 255).astype(np.uint8)
        for name, image in (("pairs/LQ", lq), ("pairs/GT", gt), ("clean", gt)):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def benchmark_config(benchmarks):
    """A configuration that scores both sets in one bucket: plain scores only."""
    config = base_config().unlock()
    config.benchmark.update({"root": str(benchmarks), "metrics": ("psnr", "ssim"), "bucket": 64})
    clean = {"folder": "clean", "layout": "clean", "gt": "", "sigma": 25.0}
    config.benchmark.sets = (
        {"name": "pairs", "folder": "pairs", "degradation": "rain", "count": len(SIZES)},
        {"name": "noisy", "degradation": "noise", **clean},
    )
    return config


@pytest.fixture(scope="session")
def plain_rows():
    """`plain_rows(folder)` -> the lines of a job without what depends on clocks."""
    return benchmark_rows.plain_rows


@pytest.fixture
def run_job(tiny_system, benchmark_config):
    """`run_job(folder, devices=1, reverse=False, **keys of config.benchmark)` -> count scored."""

    def run(
        folder, devices=1, reverse=False, system=tiny_system, predictions=None, share=None, **keys
    ):
        benchmark_config.benchmark.update(keys)
        settings = read_settings(benchmark_config)
        variants = settings.variants("posterior", 2) if system else [Variant()]
        sets = [open_set(spec, settings.root) for spec in settings.specs]
        tasks = [Task(item, v) for v in variants for opened in sets for item in opened.items]
        sizes = {"data": devices, "fsdp": 1, "tensor": 1, "spatial": 1}
        mesh = make_mesh(sizes, jax.devices()[:devices])
        job = Job(settings, folder, mesh, system, predictions, share)
        return job.run(tasks[:: -1 if reverse else 1])

    return run


@pytest.fixture(scope="session")
def whole_rows(tmp_path_factory):
    """Where the lines of an undisturbed run on one device are kept, once there is one."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def undisturbed(run_job, whole_rows, plain_rows):
    """The lines of a run on one device, one image at a time."""
    run_job(whole_rows, batch_size=1)
    return plain_rows(whole_rows)
