"""Restore images the model has never seen, and score the results."""

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.data.degradations.mix import Mixture, Recipe, degrade
from tpgdiff_jax.data.images import centre_crop
from tpgdiff_jax.data.sources import Source
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed.agreement import first_other, said_by_all
from tpgdiff_jax.distributed.batches import batch_sharding, place
from tpgdiff_jax.distributed.sharding import replicated
from tpgdiff_jax.evaluation import metrics
from tpgdiff_jax.inference.batch import name_hashes, noise_keys, run_batch
from tpgdiff_jax.inference.engine import Finish, reason, stream
from tpgdiff_jax.inference.kept_programs import KeptPrograms
from tpgdiff_jax.inference.passes import Passes
from tpgdiff_jax.inference.sizes import alike, filled_up
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.reporting.errors import RunStoppedError, UserError
from tpgdiff_jax.reporting.progress import Progress

Cut = Callable[[np.ndarray], np.ndarray]
NOTHING_SCORED = (
    "config.data.eval_folder: not one of its pictures that are used (config.eval.photos) could be "
    "read and scored; the log names each and why. Replace them, or name another folder."
)


class LeftEarlyError(Exception):
    """A validation was left, in all processes, since the run was asked to end."""


def never() -> bool:
    """Say no; of a validation that is not left."""
    return False


@dataclasses.dataclass(frozen=True)
class TestPair:
    """A degraded image and its truth, uint8 [H, W, 3].

    Attributes:
      image: name of the photo, or of the pair, in its source.
      degradation: name of what was done, or the pair's class.
      lq, gt: degraded and true.
      recipe: what was done; None where the pair came as it is.
    """

    __test__ = False  # no test class, whatever pytest thinks of its name

    image: str
    degradation: str
    lq: np.ndarray
    gt: np.ndarray
    recipe: Recipe | None = None

    @property
    def name(self) -> str:
        """What decides the noise of its restoration."""
        return f"{self.image}/{self.degradation}"


@dataclasses.dataclass(frozen=True)
class Result:
    """A restored image and its scores; PSNR in dB over RGB, SSIM over RGB."""

    pair: TestPair
    restored: np.ndarray
    psnr_input: float
    psnr: float
    ssim_input: float
    ssim: float


def chosen(source: Source, most: int | None) -> list[int]:
    """Return the elements of a source that are tested: at even distances, never the first alone.

    Sources are sorted by class and name, so that neighbours are of one class or scene.

    Args:
      source: images that were not trained on.
      most: so many of them, at most; None for all.
    """
    count = len(source) if most is None else min(most, len(source))
    return [len(source) * place // count for place in range(count)]


class TestPairs:
    """The pairs that a source of clean photos, or of pairs, is tested with.

    A photo is degraded in every way, reproducibly: by its name, the degradation and `eval.seed`
    alone, so that neither order nor number of photos changes a score.
    """

    __test__ = False

    def __init__(self, source: Source, config: ConfigDict, most: int | None = None):
        """Plan; nothing is read.

        Args:
          source: images that were not trained on.
          config: a whole configuration; reads `eval` and `data`.
          most: photos (or pairs) of the source that are used, see `chosen`; None for all.
        """
        self._source, self._config = source, config
        self._chosen = chosen(source, most)
        self._ways = (None,) if source.classes else tuple(config.data.degradations)

    def __len__(self) -> int:
        return len(self._chosen) * len(self._ways)

    def through(
        self, start: Callable[[list[TestPair]], Finish], cut: Cut, together: int, parts: int = 1
    ) -> Iterator[tuple[TestPair, Any]]:
        """Bring every pair through a program, in order; memory holds only a few.

        Args:
          start: begins a batch of pairs of one size; returns what waits for a result for each.
          cut: what of an image is used.
          together: pairs of a batch, at most; fewer where these do not fit into memory.
          parts: devices that share a batch.  It is filled up with copies, so that few programs
            serve all numbers of pairs.

        Yields:
          pairs and their results; files that cannot be used are left out, and reported.

        Raises:
          UserError: a pair needs more memory than there is.
        """

        def chunks() -> Iterator[list[tuple[int, str | None]]]:
            # So many images at a time fill their batches, whatever the number of degradations.
            for first in range(0, len(self._chosen), together):
                some = self._chosen[first : first + together]
                yield [(index, way) for index in some for way in self._ways]

        def group(pairs: Sequence[TestPair | None]) -> Iterator[list[int]]:
            return alike([pair and pair.gt.shape for pair in pairs], lambda shape: together)

        def start_filled(pairs: list[TestPair]) -> Finish:
            finish = start(pairs + pairs[:1] * (filled_up(len(pairs), parts) - len(pairs)))
            return lambda: finish()[: len(pairs)]

        with Progress(len(self), "validating") as bar:
            read = functools.partial(self._read, cut=cut)
            for outcome in stream(chunks(), read, group, start_filled):
                if outcome.error is not None:
                    name = self._source.name(outcome.source[0])
                    why = reason(outcome.error, "lower config.eval.crop_size")
                    raise UserError(f"{name}: {why}") from outcome.error
                bar.advance(1)
                if outcome.result is not None:
                    yield outcome.item, outcome.result

    def _read(self, which: tuple[int, str | None], cut: Cut) -> TestPair | None:
        """Make a pair; None where the source's files cannot be used, which it reports."""
        index, degradation = which
        element = self._source[index]
        if element is None:
            return None
        name = self._source.name(index)
        if degradation is None:
            kind = self._source.classes[element["label"]]
            return TestPair(name, kind, cut(element["lq"]), cut(element["gt"]))
        gt = cut(element)
        mixture = Mixture((degradation,), severity=tuple(self._config.data.severity))
        own = zlib.crc32(os.fsencode(f"{name}/{degradation}"))
        recipe = mixture.draw(np.random.default_rng([self._config.eval.seed, own]), 0)
        return TestPair(name, recipe.name, degrade(gt, recipe), gt, recipe)


def evaluate(
    variables: Any,
    config: ConfigDict,
    source: Source,
    *,
    most: int | None = None,
    mesh: Mesh | None = None,
    is_asked_to_end: Callable[[], bool] = never,
) -> Iterator[Result]:
    """Restore and score every pair of a source, one after the other; memory holds only a few.

    Args:
      variables: the system's {"params", "frozen"}; `params` the running average of a run.
      config: a whole configuration; reads `eval`, `model`, `diffusion`, `data`.
      source: clean photos or pairs that were not trained on.
      most: so many of them, at most, see `chosen`.
      mesh: where the variables lie.  Every batch is then split over its axes `data` and `fsdp`; all
        processes must call, and all get all results.  None for variables of one device or the host.
      is_asked_to_end: asked before each batch, equally often in all processes.

    Yields:
      one result per pair, in the pairs' order.

    Raises:
      UserError: a pair needs more memory than there is.
      RunStoppedError: processes of one mesh read different pictures.
      LeftEarlyError: the run was asked to end.
    """
    options = [(name, config.eval[name]) for name in ("sampler", "steps", "clamp")]
    options += [("passes", Passes.of(config.eval.passes, config))]
    settings = {
        "model": tpgdiff.build(config),
        "sde": IRSDE(**config.diffusion),
        "seed": config.eval.seed,
        "mesh": mesh,
        "options": (*options, ("prediction", config.model.prediction)),
    }
    parts = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]

    def start(pairs: list[TestPair]) -> Finish:
        if mesh is not None:
            check_same(pairs)
        if is_asked_to_end():
            raise LeftEarlyError
        arrays = [np.stack([pair.lq for pair in pairs]), np.stack([pair.gt for pair in pairs])]
        arrays.append(name_hashes([pair.name for pair in pairs]))
        if mesh is not None:  # whole images per device
            where = (batch_sharding(mesh, array.ndim, split_rows=False) for array in arrays)
            arrays = list(map(place, arrays, where))
        _KEPT.make_room((arrays[0].shape, *settings.items()))
        answer = restore_and_score(variables, *arrays, **settings)

        def finish() -> list[tuple[np.ndarray, dict[str, float]]]:
            restored, scores = jax.device_get(answer)
            return [
                (image, {name: float(values[row]) for name, values in scores.items()})
                for row, image in enumerate(restored)
            ]

        return finish

    cut = functools.partial(centre_crop, side=config.eval.crop_size)
    together = -(-config.eval.batch_size // parts) * parts
    pairs = TestPairs(source, config, most)
    for pair, (image, numbers) in pairs.through(start, cut, together, parts):
        yield Result(pair, image, **numbers)
    if mesh is not None:
        check_same([])


def check_same(pairs: Sequence[TestPair]) -> None:
    """Check that all processes are about to restore the same batch; [] after the last one.

    Each reads the pictures itself and gives its devices their part of the batch.  One that lacks a
    file would mix up the pictures, or wait for ever for a batch that the others do not have.

    Raises:
      RunStoppedError: they differ; in all processes.
    """
    if jax.process_count() == 1:
        return
    digest = 0
    for pair in pairs:
        for part in (os.fsencode(pair.name), pair.lq.tobytes(), pair.gt.tobytes()):
            digest = zlib.crc32(part, digest)
    if (other := first_other(said_by_all([digest]))) is not None:
        near = f"at {pairs[0].name}" if pairs else "after the last one"
        raise RunStoppedError(
            f"config.data.eval_folder: process {other} does not validate with the pictures of "
            f"process 0 ({near}). All machines must read the same files; the logs name those that "
            "cannot be read."
        )


@functools.partial(jax.jit, static_argnames=("model", "sde", "seed", "mesh", "options"))
def restore_and_score(
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
    keys = noise_keys(seed, hashes)
    restored = run_batch(variables, lq, keys, model=model, sde=sde, **dict(options)).restored
    scores = {
        "psnr_input": metrics.psnr(lq, gt),
        "psnr": metrics.psnr(restored, gt),
        "ssim_input": metrics.ssim(lq, gt),
        "ssim": metrics.ssim(restored, gt),
    }
    if mesh is not None:
        return jax.lax.with_sharding_constraint((restored, scores), replicated(mesh))
    return restored, scores


# Every validation meets the sizes of the one before, in the order of the photos.
_KEPT = KeptPrograms(restore_and_score, most=48)
