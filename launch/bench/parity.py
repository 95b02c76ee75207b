"""How far a bfloat16 chain is from a float32 one: the same weights, noise and pictures."""

import copy
import itertools
import pathlib
from concurrent.futures import Executor
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from launch.bench.model import Planned, Row
from launch.bench.sample import plan_chain
from launch.bench.weights import random_system
from tpgdiff_jax.data.degradations.mix import Recipe, degrade
from tpgdiff_jax.data.images import centre_crop, read_rgb
from tpgdiff_jax.inference.weights import load_any
from tpgdiff_jax.reporting.errors import UserError

DTYPES = ("float32", "bfloat16")
_DEGRADATIONS = ("noise", "blur", "low_light", "haze", "rain")


def bench_parity(
    config: ConfigDict, checkpoint: str | None, photos: str, steps: int | None = None
) -> list[Row]:
    """Restore degraded photos in both types and compare the results.

    Args:
      config: of random weights, which then predict x0, and of size and number of the pictures.
      checkpoint: a `.safetensors` file or a run's folder, instead of random weights.
      photos: folder of clean photos; their central squares are degraded in five ways in turn.
      steps: network calls; the weights' own number by default.
    """
    return compare(*plan(config, checkpoint, photos, steps))


def plan(
    config: ConfigDict,
    checkpoint: str | None,
    photos: str,
    steps: int | None = None,
    pool: Executor | None = None,
) -> tuple[np.ndarray, dict[str, Planned]]:
    """Return the clean pictures and the chain of each type; arguments as for `bench_parity`.

    With a `pool`, the chains are compiled there.
    """
    if checkpoint:
        _, variables, own, _ = load_any(checkpoint)
    else:
        own = _changed(config, prediction="x0")
        _, variables = random_system(own)
    gt = squares(photos, config.data.crop_size, config.data.batch_size)
    return gt, plan_chains(own, variables, degraded(gt), steps or own.eval.steps, pool)


def plan_chains(
    config: ConfigDict, variables: Any, lq: np.ndarray, steps: int, pool: Executor | None = None
) -> dict[str, Planned]:
    """Return the chain of each type; arguments as for `sample.plan_chain`."""
    lq = lq.astype(np.float32) / 255  # so that results are not rounded to grey levels
    return {
        dtype: plan_chain(_changed(config, dtype=dtype), variables, lq, steps, pool)
        for dtype in DTYPES
    }


def compare(gt: np.ndarray, chains: dict[str, Planned]) -> list[Row]:
    """Run what was planned; return a row for each picture, and their mean."""
    found = {
        dtype: np.asarray(planned.program.compiled(*planned.args).restored)
        for dtype, planned in chains.items()
    }
    rows = []
    for index in range(len(gt)):
        images = {dtype: result[index] for dtype, result in found.items()}
        row = {"what": f"picture {index}, {_DEGRADATIONS[index % len(_DEGRADATIONS)]}"}
        rows.append(row | compared(gt[index], images))
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "what"}
    return [*rows, {"what": "mean", **mean}]


def compared(gt: np.ndarray, images: dict[str, np.ndarray]) -> Row:
    """Compare the results of both types of one picture.

    Args:
      gt: the clean one, uint8 [H, W, 3].
      images: of each of `DTYPES`, float [H, W, 3] in [0, 1].

    Returns:
      `db_between` them, the PSNR of each to the clean one, and the `difference_db` of these.
    """
    clean = gt.astype(np.float64) / 255
    first, second = (psnr(images[dtype], clean) for dtype in DTYPES)
    return {
        "db_between": psnr(images["float32"], images["bfloat16"]),
        "float32_psnr": first,
        "bfloat16_psnr": second,
        "difference_db": abs(first - second),
    }


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Return 10 log10(1 / mean squared difference) of images in [0, 1]; at most 200."""
    error = np.mean(np.square(np.asarray(first, np.float64) - second))
    return float(-10 * np.log10(max(error, 1e-20)))


def squares(folder: str, size: int, count: int) -> np.ndarray:
    """Return squares of a folder's photos, uint8 [count, size, size, 3], over and over.

    Raises:
      UserError: there is no such folder, or it holds no photo of that size.
    """
    found = []
    if not pathlib.Path(folder).is_dir():
        raise UserError(f"--photos={folder} is no folder.")
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            image = read_rgb(path)
            if min(image.shape[:2]) >= size:
                found.append(centre_crop(image, size))
    if not found:
        raise UserError(f"--photos={folder} holds no photo of {size}x{size} pixels or more.")
    return np.stack([found[index % len(found)] for index in range(count)])


def degraded(images: np.ndarray) -> np.ndarray:
    """Degrade pictures uint8 [B, H, W, 3] in five ways in turn."""
    kinds = itertools.cycle(_DEGRADATIONS)
    recipes = [Recipe(((next(kinds), 3.0),), index) for index in range(len(images))]
    return np.stack([degrade(*pair) for pair in zip(images, recipes, strict=True)])


def _changed(config: ConfigDict, **values: Any) -> ConfigDict:
    """Return a copy of a configuration with other values of `model`."""
    config = copy.deepcopy(config)
    with config.unlocked():
        config.model.update(values)
    return config.lock()
