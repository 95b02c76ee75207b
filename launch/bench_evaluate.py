"""Measure what scoring and writing add to the sampling of a benchmark.

    python launch/bench_evaluate.py [--config=configs/bench/unet.py] [--steps=10] [--photos=FOLDER]

Random weights of the configured sizes restore photos of a folder at noise sigma 25, twice: the
first run compiles, the second is timed.  Printed are the seconds of the whole job, those of the
sampling alone, and the difference: reading, scoring (PSNR, SSIM, both also of luma, LPIPS by
AlexNet; all of input and result) and writing images and lines.
"""

import dataclasses
import pathlib
import shutil
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags
from PIL import Image

from tpgdiff_jax.config import base_config
from tpgdiff_jax.distributed.sharding import make_mesh
from tpgdiff_jax.evaluation.finding import open_set
from tpgdiff_jax.evaluation.job import ROWS, Job, System
from tpgdiff_jax.evaluation.rows import read_rows
from tpgdiff_jax.evaluation.settings import read_settings
from tpgdiff_jax.evaluation.test_sets import SetSpec
from tpgdiff_jax.evaluation.work import Task
from tpgdiff_jax.models import tpgdiff

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", "configs/bench/unet.py", "Sizes of the system.")
flags.DEFINE_integer("steps", 10, "Network calls per image.")
flags.DEFINE_string("photos", "configs/quickstart_photos/eval", "Clean photos.")
flags.DEFINE_integer("size", 256, "Central square of each photo that is used.")


def random_system(config) -> System:
    """Build a system with random weights of about the size that keeps activations finite."""
    model = tpgdiff.build(config)
    image = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, image, jnp.ones(1))["params"]
    rng = np.random.default_rng(0)

    def draw(leaf):
        scale = 0.05 if len(leaf.shape) < 2 else 0.3 * np.prod(leaf.shape[:-1]) ** -0.5
        return (scale * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return System(model, {"params": jax.tree.map(draw, shapes), "frozen": {}}, config)


def crops(folder: pathlib.Path, size: int, target: pathlib.Path) -> None:
    """Write the photos' central squares."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".jpg", ".png"):
            image = Image.open(path).convert("RGB")
            left, top = (image.width - size) // 2, (image.height - size) // 2
            image.crop((left, top, left + size, top + size)).save(target / f"{path.stem}.png")


def main(_) -> None:
    """Measure and print."""
    config = FLAGS["config"].value
    settings = read_settings(base_config())
    system = random_system(config)
    mesh = make_mesh(base_config().mesh)
    with tempfile.TemporaryDirectory() as name:
        root = pathlib.Path(name)
        (root / "photos").mkdir()
        crops(pathlib.Path(FLAGS.photos), FLAGS.size, root / "photos")
        spec = SetSpec("noise", "photos", "clean", gt="", sigma=25.0)
        settings = dataclasses.replace(settings, steps=(FLAGS.steps,))
        variant = settings.variants("posterior", FLAGS.steps)[0]
        tasks = [Task(item, variant) for item in open_set(spec, root).items]
        job = Job(settings, root / "job", mesh, system)
        job.run(tasks)  # compiles
        shutil.rmtree(root / "job")
        started = time.perf_counter()
        job.run(tasks)
        whole = time.perf_counter() - started
        rows = read_rows(root / "job" / ROWS).values()
        sampling = sum(row["seconds"] for row in rows) / mesh.size
    print(
        f"{len(tasks)} images of {FLAGS.size} px, width {config.model.width}, {FLAGS.steps} steps, "
        f"{mesh.size} x {jax.devices()[0].device_kind}: whole {whole:.2f} s, sampling "
        f"{sampling:.2f} s, scoring and files {whole - sampling:.2f} s = "
        f"{100 * (whole - sampling) / sampling:.1f} % of the sampling"
    )


if __name__ == "__main__":
    app.run(main)
