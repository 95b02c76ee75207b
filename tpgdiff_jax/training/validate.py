"""Restore photos the model has never seen, degraded on the fly, and score the results."""

import dataclasses
import functools
import os
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from tpgdiff_jax.data.degradations.mix import Mixture, Recipe, degrade
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed.sharding import replicated
from tpgdiff_jax.evaluation import metrics
from tpgdiff_jax.inference.batch import restore_batch
from tpgdiff_jax.models import tpgdiff


@dataclasses.dataclass(frozen=True)
class TestPair:
    """A degraded image and its truth, uint8 [H, W, 3], with what was done to it."""

    __test__ = False  # no test class, whatever pytest thinks of its name

    photo: str
    recipe: Recipe
    lq: np.ndarray
    gt: np.ndarray


@dataclasses.dataclass(frozen=True)
class Result:
    """A restored image and its scores; PSNR in dB over RGB, SSIM over RGB."""

    pair: TestPair
    restored: np.ndarray
    psnr_input: float
    psnr: float
    ssim_input: float
    ssim: float


def make_pairs(photos: PhotoFolder, config: ConfigDict) -> list[TestPair]:
    """Degrade every photo in every way, reproducibly.

    A pair depends on the photo's name, the degradation and `eval.seed` alone, so that neither
    order nor number of photos changes a score.

    Args:
      photos: clean photos.
      config: a whole configuration; reads `eval` and `data.degradations`.
    """
    pairs = []
    for index in range(len(photos)):
        photo = photos[index]
        if photo is None:
            continue
        gt = centre_crop(photo, config.eval.crop_size)
        name = str(photos.paths[index].relative_to(photos.folder))
        for degradation in config.data.degradations:
            mixture = Mixture((degradation,), severity=tuple(config.data.severity))
            recipe = mixture.draw(_pair_rng(config.eval.seed, name, degradation), 0)
            pairs.append(TestPair(name, recipe, degrade(gt, recipe), gt))
    return pairs


def _pair_rng(seed: int, photo: str, degradation: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(os.fsencode(f"{photo}/{degradation}"))])


def centre_crop(photo: np.ndarray, size: int) -> np.ndarray:
    """Cut the central square of at most `size` pixels; 0 keeps the whole photo."""
    if size == 0:
        return photo
    height, width = photo.shape[:2]
    top, left = max(0, (height - size) // 2), max(0, (width - size) // 2)
    return photo[top : top + size, left : left + size]


def evaluate(
    variables: Any, config: ConfigDict, photos: PhotoFolder, *, mesh: Mesh | None = None
) -> list[Result]:
    """Restore and score every pair that `make_pairs` makes.

    Args:
      variables: the system's {"params", "frozen"}; `params` the running average of a run.
      config: a whole configuration; reads `eval`, `model`, `diffusion`, `data.degradations`.
      photos: clean photos that were not trained on.
      mesh: where the variables lie.  Every batch is then split over its axes `data` and `fsdp`; all
        processes must call, and all get all results.  None for variables of one device or the host.

    Returns:
      one result per pair, in the pairs' order.
    """
    options = [(name, config.eval[name]) for name in ("sampler", "steps", "clamp")]
    settings = {
        "model": tpgdiff.build(config),
        "sde": IRSDE(**config.diffusion),
        "seed": config.eval.seed,
        "mesh": mesh,
        "options": (*options, ("prediction", config.model.prediction)),
    }
    pairs = make_pairs(photos, config)
    parts = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
    batch_size = -(-config.eval.batch_size // parts) * parts
    results: dict[int, Result] = {}
    quiet = not sys.stderr.isatty() or jax.process_index() != 0
    with tqdm.tqdm(total=len(pairs), unit="image", desc="restoring", disable=quiet) as bar:
        for chosen in _equal_size_batches(pairs, batch_size):
            # Filled up with copies, so that a group's last batch needs no program of its own.
            batch = [pairs[i] for i in chosen + chosen[:1] * (batch_size - len(chosen))]
            names = (f"{pair.photo}/{pair.recipe.name}" for pair in batch)
            arrays = (
                np.stack([pair.lq for pair in batch]),
                np.stack([pair.gt for pair in batch]),
                np.array([zlib.crc32(os.fsencode(name)) for name in names], np.uint32),
            )
            if mesh is not None:
                arrays = tuple(_split(array, mesh) for array in arrays)
            restored, scores = jax.device_get(_restore_and_score(variables, *arrays, **settings))
            for row, index in enumerate(chosen):
                numbers = {name: float(values[row]) for name, values in scores.items()}
                results[index] = Result(pairs[index], restored[row], **numbers)
            bar.update(len(chosen))
    return [results[index] for index in range(len(pairs))]


@functools.partial(jax.jit, static_argnames=("model", "sde", "seed", "mesh", "options"))
def _restore_and_score(
    variables: Any,
    lq: jax.Array,
    gt: jax.Array,
    hashes: jax.Array,
    *,
    model: tpgdiff.TPGDiff,
    sde: IRSDE,
    seed: int,
    mesh: Mesh | None,
    options: tuple[tuple[str, Any], ...],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return (restored, scores), whole in every process.

    A function of the module, so that every validation of a run uses the program of the first.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), hashes)
    restored = restore_batch(variables, lq, keys, model=model, sde=sde, **dict(options))
    scores = {
        "psnr_input": metrics.psnr(lq, gt),
        "psnr": metrics.psnr(restored, gt),
        "ssim_input": metrics.ssim(lq, gt),
        "ssim": metrics.ssim(restored, gt),
    }
    if mesh is not None:
        return jax.lax.with_sharding_constraint((restored, scores), replicated(mesh))
    return restored, scores


def _split(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Lay a batch that every process holds whole over the mesh, whole images per device."""
    where = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])


def _equal_size_batches(pairs: list[TestPair], batch_size: int) -> Iterator[list[int]]:
    """Yield indices of pairs of one size each, at most `batch_size` at a time."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, pair in enumerate(pairs):
        by_size.setdefault(pair.gt.shape, []).append(index)
    for indices in by_size.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]
