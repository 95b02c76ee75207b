"""Score stage one on unseen photos: does it name what degraded them, and see through it?"""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tabulate
from ml_collections import ConfigDict
from PIL import Image

from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.models.stage_one import StageOne, build_stage_one
from tpgdiff_jax.priors.semantic import unit_length
from tpgdiff_jax.training.validate import TestPair, make_pairs

_BATCH = 16


@dataclasses.dataclass(frozen=True)
class StageOneScores:
    """What stage one knows of degraded photos.

    Attributes:
      names: of the degradations.
      confusion: photos by (what was done, what was answered), int [K, K].
      cosine: mean cosine between the student's vector of the degraded photo and the teacher's of
        the clean one.
      cosine_untaught: the same for the teacher looking at the degraded photo itself: what a
        student must exceed to be of use.
    """

    names: tuple[str, ...]
    confusion: np.ndarray
    cosine: float
    cosine_untaught: float

    @property
    def accuracy(self) -> float:
        """Return the share of photos whose degradation was recognised."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    def metrics(self) -> dict[str, float]:
        """Return the scores by name; `score`, which decides on the best, is the accuracy."""
        cosines = {"cosine": self.cosine, "cosine_untaught": self.cosine_untaught}
        return {"score": self.accuracy, "accuracy": self.accuracy, **cosines}

    def table(self, style: str = "simple") -> str:
        """Return the confusion matrix as text, in one of tabulate's styles."""
        rows = [(name, *counts) for name, counts in zip(self.names, self.confusion, strict=True)]
        return tabulate.tabulate(rows, ("done \\ answered", *self.names), style)


class _Squares:
    """Photos as stage one sees them: the central square, resized."""

    def __init__(self, photos: PhotoFolder, size: int):
        self.paths, self.folder = photos.paths, photos.folder
        self._photos, self._size = photos, size

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> np.ndarray | None:
        photo = self._photos[index]
        if photo is None:
            return None
        side = min(photo.shape[:2])
        top, left = ((extent - side) // 2 for extent in photo.shape[:2])
        square = Image.fromarray(photo[top : top + side, left : left + side])
        return np.asarray(square.resize((self._size, self._size), Image.Resampling.BICUBIC))


def evaluate_stage_one(
    params: Any, teacher: Any, config: ConfigDict, photos: PhotoFolder
) -> StageOneScores:
    """Degrade every photo in every way, reproducibly, and ask the student and the classifier.

    Args:
      params: {"semantic", "degradation"}, on the host or one device.
      teacher: the frozen teacher's.
      config: stage one's configuration; reads `model`, `priors`, `data` and `eval.seed`.
      photos: clean photos that were not trained on.

    Returns:
      the scores over all pairs of photo and degradation.
    """
    whole = copy.deepcopy(config)
    with whole.unlocked():
        whole.eval.crop_size = 0
    pairs = make_pairs(_Squares(photos, config.data.crop_size), whole)
    names = tuple(config.data.degradations)
    networks = build_stage_one(config)
    confusion = np.zeros((len(names), len(names)), np.int64)
    cosines = []
    for batch, count in _batches(pairs):
        gt, lq = (np.stack([getattr(pair, k) for pair in batch]) for k in ("gt", "lq"))
        answers, *both = jax.device_get(_ask(params, teacher, gt, lq, networks=networks))
        for pair, answer in zip(batch[:count], answers[:count], strict=True):
            confusion[names.index(pair.recipe.name), answer] += 1
        cosines.append(np.stack(both)[:, :count])
    cosine, untaught = np.concatenate(cosines, axis=1).mean(axis=1)
    return StageOneScores(names, confusion, float(cosine), float(untaught))


def _batches(pairs: list[TestPair]) -> Iterator[tuple[list[TestPair], int]]:
    """Yield full batches and how many of each count; the last one is filled up with copies."""
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        yield batch + batch[:1] * (_BATCH - len(batch)), len(batch)


@jax.jit(static_argnames="networks")
def _ask(params, teacher, gt, lq, *, networks: StageOne):
    gt, lq = (x.astype(jnp.float32) / 255 for x in (gt, lq))
    gt_view, lq_view = networks.views(gt, lq)
    _, logits = networks.degradation.apply({"params": params["degradation"]}, lq_view)
    views = (gt_view, networks.views(lq, lq)[0])
    answers = (networks.teacher.apply({"params": teacher}, view) for view in views)
    taught, untaught = map(unit_length, answers)
    student = networks.semantic.apply({"params": params["semantic"]}, lq_view)
    return logits.argmax(axis=-1), (student * taught).sum(-1), (untaught * taught).sum(-1)
