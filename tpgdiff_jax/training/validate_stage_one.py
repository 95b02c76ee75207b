"""Score stage one on images it has not seen: does it name what degraded them?"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tabulate
from ml_collections import ConfigDict
from PIL import Image

from tpgdiff_jax.data.images import square_of
from tpgdiff_jax.data.sources import Source
from tpgdiff_jax.inference.engine import Finish
from tpgdiff_jax.models.stage_one import StageOne, build_stage_one
from tpgdiff_jax.priors.semantic import unit_length
from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.training.validate import (
    NOTHING_SCORED,
    LeftEarlyError,
    TestPair,
    TestPairs,
    check_same,
    never,
)
from tpgdiff_jax.training.validation_report import SCORES

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
        return float(np.trace(self.confusion) / max(self.confusion.sum(), 1))

    def metrics(self) -> dict[str, float]:
        """Return the scores by name; `score`, which decides on the best, is the accuracy."""
        cosines = {"cosine": self.cosine, "cosine_untaught": self.cosine_untaught}
        return {"score": self.accuracy, "accuracy": self.accuracy, **cosines}

    def table(self, style: str = "simple") -> str:
        """Return the confusion matrix as text, in one of tabulate's styles."""
        rows = [(name, *counts) for name, counts in zip(self.names, self.confusion, strict=True)]
        return tabulate.tabulate(rows, ("done \\ answered", *self.names), style)

    def write(self, folder: pathlib.Path) -> None:
        """Write `table.md` and `scores.json` into a folder; older ones in it are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "table.md", f"{self.table('github')}\n")
        scores = self.metrics() | {"names": self.names, "confusion": self.confusion.tolist()}
        write_text(folder / SCORES, json_text.dumps(scores, indent=2) + "\n")


def evaluate_stage_one(
    params: Any,
    teacher: Any,
    config: ConfigDict,
    source: Source,
    *,
    most: int | None = None,
    is_asked_to_end: Callable[[], bool] = never,
) -> StageOneScores:
    """Ask the student and the classifier about degraded images: about every pair of a source.

    Each process asks about all of them; all must call, and decide alike on the best checkpoint.

    Args:
      params: {"semantic", "degradation"}, on the host or one device.
      teacher: the frozen teacher's.
      config: stage one's configuration; reads `model`, `priors`, `data` and `eval.seed`.
      source: clean photos or pairs that were not trained on.
      most: so many of them, at most, see `validate.chosen`.
      is_asked_to_end: as in `evaluate`.

    Returns:
      the scores over all pairs.

    Raises:
      RunStoppedError: processes read different pictures.
      LeftEarlyError: the run was asked to end.
    """
    names, networks = tuple(config.data.degradations), build_stage_one(config)
    params, teacher = jax.device_put((params, teacher))  # once, not with every batch

    def start(pairs: list[TestPair]) -> Finish:
        check_same(pairs)
        if is_asked_to_end():
            raise LeftEarlyError
        gt, lq = (np.stack([getattr(pair, k) for pair in pairs]) for k in ("gt", "lq"))
        answers = _ask(params, teacher, gt, lq, networks=networks)
        return lambda: list(zip(*jax.device_get(answers), strict=True))

    confusion = np.zeros((len(names), len(names)), np.int64)
    cosines = []
    # As stage one sees photos.
    side, kernel = config.data.crop_size, Image.Resampling.BICUBIC
    square = functools.partial(square_of, side=side, kernel=kernel)
    for pair, (answer, *both) in TestPairs(source, config, most).through(start, square, _BATCH):
        if pair.degradation in names:  # no one answer is right about mixtures and other pairs
            confusion[names.index(pair.degradation), answer] += 1
        cosines.append(both)
    check_same([])
    if not cosines:
        raise UserError(NOTHING_SCORED)
    cosine, untaught = np.mean(cosines, axis=0)
    return StageOneScores(names, confusion, float(cosine), float(untaught))


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
