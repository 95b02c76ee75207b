"""Run a benchmark: every image once in every variant, on all devices, whatever interrupts it."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from tpgdiff_jax.benchmark import program
from tpgdiff_jax.benchmark.rows import Key, Row, Stamp, is_kept, key_of, lines_of, number, read_rows
from tpgdiff_jax.benchmark.settings import Settings, Variant
from tpgdiff_jax.benchmark.stamps import agreed_stamps, read_stamps
from tpgdiff_jax.benchmark.work import (
    Loaded,
    Predictions,
    Task,
    chunks,
    kept_name,
    load,
    share_of,
)
from tpgdiff_jax.benchmark.worker import System, Worker
from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.inference.engine import Outcome, WriteBehind, is_out_of_memory, reason, stream
from tpgdiff_jax.priors.degradation import class_probabilities, verdict
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable, stays_inside
from tpgdiff_jax.reporting.json_lines import JsonLines
from tpgdiff_jax.reporting.progress import Progress
from tpgdiff_jax.stores.places import is_copy

ROWS, IMAGES = "scores", "restored"
_REMEDY = "lower config.benchmark.tile, or largest_whole to see it in windows"


def image_path(folder: pathlib.Path, variant: str, set_name: str, image: str) -> pathlib.Path:
    """Return where a restored image is kept."""
    return folder / IMAGES / variant / set_name / kept_name(image)


def row_log_of(share: tuple[int, int] | None) -> int:
    """Return the number of the file that this process writes its lines to."""
    return share[0] if share else jax.process_index()


class Job:
    """One run over tasks; `run` may be called again and goes on where it stopped."""

    def __init__(
        self,
        settings: Settings,
        folder: pathlib.Path,
        mesh: Mesh,
        system: System | None = None,
        predictions: Predictions | None = None,
        share: tuple[int, int] | None = None,
    ):
        """Prepare.

        Args:
          settings: what to do.
          folder: of the lines and images; the same for all processes.
          mesh: the devices of all processes; each process works on its own.
          system: what restores, or
          predictions: what somebody else has restored.
          share: (index, count) of the part that this process does alone; None: it does its part of
            what all processes of JAX do together.
        """
        self._share = share
        self._settings, self._folder, self._system = settings, folder, system
        self._predictions = predictions
        self._keeps_pictures = settings.save_images and predictions is None
        self._worker = Worker(settings, program.own_devices(mesh), system)
        self._stamps: dict[Key, Stamp] = {}

    def run(self, tasks: Sequence[Task]) -> int:
        """Do what of them (or of the share) is not done yet; lines are on disk when batches are.

        Args:
          tasks: every process must name the same, in any order that all share.

        Returns:
          how many images this process scored (or found to be bad) now.
        """
        _check_same(tasks)
        if self._share:
            tasks = share_of(tasks, self._settings.bucket, *self._share)
        stamps = agreed_stamps(read_stamps(tasks, self._predictions))
        self._stamps = {task.key: stamp for task, stamp in zip(tasks, stamps, strict=True)}
        done = _agreed(self._done(tasks))
        waiting = [task for task, is_done in zip(tasks, done, strict=True) if not is_done]
        if len(waiting) < len(tasks):
            logging.info("%d of %d images are done already.", len(tasks) - len(waiting), len(tasks))
        self._check_targets(waiting)
        bucket, together = self._settings.bucket, self._worker.devices * self._settings.batch_size
        place = (0, 1) if self._share else (jax.process_index(), jax.process_count())
        own = chunks(waiting, bucket, together, *place)
        total = sum(map(len, own))

        def read(task: Task) -> Loaded:
            return load(task, bucket, self._settings.seed, self._predictions)

        def file(row: Row, writing: Future | None) -> None:
            if writing is not None:
                writing.result()
            log.write(row)  # last: a line vouches for its image

        with (
            JsonLines(lines_of(self._folder / ROWS, row_log_of(self._share))) as log,
            Progress(total, "scoring") as bar,
            WriteBehind(write_image, file) as writer,
        ):
            for outcome in stream(own, read, self._worker.batches, self._worker.start):
                row, image = self._line(outcome)
                writer.put(row, *self._kept(row, image))
                bar.advance(1)
        return total

    def _check_targets(self, tasks: Sequence[Task]) -> None:
        """Raise UserError where a link in the folder would have its files written elsewhere."""
        targets = {image_path(self._folder, *task.key) for task in tasks}
        first = {target.parent: target for target in targets}
        for target in (self._folder / ROWS / "lines", *first.values()):
            if not stays_inside(target, self._folder):
                raise UserError(
                    f"{target.parent} leads out of --output={self._folder}; keep links to other "
                    "folders out of it."
                )

    def _done(self, tasks: Sequence[Task]) -> np.ndarray:
        """Return which tasks have all scores of the files that are there now, and their picture."""
        good, still = (
            {
                key: row
                for key, row in read_rows(self._folder / ROWS, stamps).items()
                if "error" not in row
            }
            for stamps in (None, self._stamps)
        )
        keys = [task.key for task in tasks]
        if changed := sum(key in good and key not in still for key in keys):
            logging.info("%d scores are made again: their files have changed.", changed)
        lacking = self._lacking_pictures({key: still[key] for key in keys if key in still})
        if lacking:
            logging.info("%d images are restored again: their pictures are lacking.", len(lacking))
        partial = {task.key for task in tasks if self._lacks_scores(task, still.get(task.key))}
        if partial:
            text = "%d images are scored again: they lack scores that can be computed now."
            logging.info(text, len(partial))
        return np.array([key in still and key not in lacking | partial for key in keys], bool)

    def _lacks_scores(self, task: Task, row: Row | None) -> bool:
        """Tell whether an image was scored where a package was missing that is here now."""
        if row is None or task.item.gt is None:
            return False
        return not row.keys() >= set(program.scores_of(task.item.size, self._worker.scores))

    def _lacking_pictures(self, rows: Mapping[Key, Row]) -> set[Key]:
        """Return which of the images that are scored lack a picture that is to be kept."""
        if not self._keeps_pictures:
            return set()
        # Of a folder in a store a share copies no pictures; the lines tell what was sent there.
        are_here = not (self._share and is_copy(self._folder))
        return {
            key
            for key, row in rows.items()
            if not is_kept(row) or (are_here and not image_path(self._folder, *key).is_file())
        }

    def _line(self, outcome: Outcome) -> tuple[Row, np.ndarray | None]:
        task, numbers, error = outcome.source, outcome.result, None
        item, variant = task.item, task.variant
        line = {"variant": variant.name, "set": item.spec.name, "image": item.name}
        files = {"files": self._stamps[task.key]}
        if outcome.error is not None:
            too_large = is_out_of_memory(outcome.error)
            error = reason(outcome.error, _REMEDY) if too_large else str(outcome.error)
        elif not numbers["finite"]:
            error = "the output holds NaN or infinite values"
        if error is not None:
            logging.warning("%s, %s: %s", item.spec.name, printable(item.name), error)
            return line | {"error": error} | files, None
        height, width = item.size
        line |= {"height": height, "width": width, "protocol": item.spec.protocol}
        if item.gt is not None:
            line |= {
                prefix + name: number(numbers[prefix + name])
                for name in program.scores_of(item.size, self._worker.scores)
                for prefix in ("", "input_")
            }
        if self._system is not None:
            line |= _cost(variant, numbers, self._settings.seed)
            line |= {} if self._keeps_pictures else {"kept": False}
            if "logits" in numbers:
                line |= self._predicted(numbers["logits"])
        line |= {"recipe": item.recipe(self._settings.seed), "truth": item.spec.degradation}
        return line | files, numbers["image"][:height, :width]

    def _predicted(self, logits: np.ndarray) -> Row:
        config = self._system.config
        kind, names = config.priors.classification, config.data.degradations
        return predicted(np.asarray(class_probabilities(logits, kind)), names, kind)

    def _kept(self, row: Row, image: np.ndarray | None) -> tuple[()] | tuple[pathlib.Path, Any]:
        """Return where to an image is written, and the image; () where it is not kept.

        Then an older picture of that name goes: it is none of the image that was scored.
        """
        if image is None or self._predictions is not None:
            return ()
        path = image_path(self._folder, *key_of(row))
        if self._keeps_pictures:
            return path, image
        path.unlink(missing_ok=True)
        return ()


def predicted(probabilities: np.ndarray, names: Sequence[str], kind: str) -> Row:
    """Say what a classifier takes an image for.

    Args:
      probabilities: of the degradations, [K].
      names: of the degradations.
      kind: of the classifier, see `verdict`.

    Returns:
      {"predicted": names, "probability": of just this answer}.
    """
    name, chance = verdict(dict(zip(names, map(float, probabilities), strict=True)), kind)
    return {"predicted": name, "probability": number(chance)}


def _cost(variant: Variant, numbers: dict, seed: int) -> Row:
    seconds = round(float(numbers["seconds"]), 4)
    calls = variant.steps * variant.ensemble * int(numbers["passes"])
    return {"nfe": calls, "seconds": seconds, "seed": seed}


def _check_same(tasks: Sequence[Task]) -> None:
    """Make sure that all processes have the same tasks."""
    if jax.process_count() > 1:
        multihost_utils.assert_equal(
            np.frombuffer(_digest(tasks), np.uint8),
            "The processes see different test sets; all need the same folders.",
        )


def _agreed(done: np.ndarray) -> np.ndarray:
    """Return which tasks are done, as process 0 sees it; files may reach others later."""
    if jax.process_count() == 1:
        return done
    return np.asarray(multihost_utils.broadcast_one_to_all(done)).astype(bool)


def _digest(tasks: Sequence[Task]) -> bytes:
    return hashlib.sha256(repr([(*task.key, task.item.size) for task in tasks]).encode()).digest()
