"""Run a benchmark: every image once in every variant, on all devices, whatever interrupts it."""

import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.benchmark import program
from tpgdiff_jax.benchmark.rows import Key, Row, RowLog, Stamp, number, read_rows
from tpgdiff_jax.benchmark.settings import Settings, Variant
from tpgdiff_jax.benchmark.stamps import agreed_stamps, read_stamps
from tpgdiff_jax.benchmark.work import (
    Batch,
    Loaded,
    Predictions,
    Task,
    batches,
    kept_name,
    read_ahead,
)
from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.evaluation import perceptual
from tpgdiff_jax.evaluation.protocols import PROTOCOLS, SCORES
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.priors.degradation import class_probabilities, verdict
from tpgdiff_jax.reporting.files import printable
from tpgdiff_jax.reporting.progress import Progress

ROWS, IMAGES = "scores", "restored"


@dataclasses.dataclass(frozen=True)
class System:
    """What restores: a model with its variables on the host, and its configuration."""

    model: TPGDiff
    variables: Any
    config: ConfigDict


def image_path(folder: pathlib.Path, variant: str, set_name: str, image: str) -> pathlib.Path:
    """Return where a restored image is kept."""
    return folder / IMAGES / variant / set_name / kept_name(image)


class Job:
    """One run over tasks; `run` may be called again and goes on where it stopped."""

    def __init__(
        self,
        settings: Settings,
        folder: pathlib.Path,
        mesh: Mesh,
        system: System | None = None,
        predictions: Predictions | None = None,
    ):
        """Prepare.

        Args:
          settings: what to do.
          folder: of the lines and images; the same for all processes.
          mesh: the devices of all processes.
          system: what restores, or
          predictions: what somebody else has restored.
        """
        self._settings, self._folder, self._mesh = settings, folder, mesh
        self._system, self._predictions = system, predictions
        self._variables = system and program.replicate(system.variables, mesh)
        names = tuple(n for n in settings.metrics if n in (*SCORES, *perceptual.NAMES))
        deep = tuple(name for name in names if name in perceptual.NAMES)
        networks, missing = program.load_networks(deep)
        self._metrics = tuple(name for name in names if name not in missing)
        self._networks = program.replicate(networks, mesh)
        self._programs: dict[Any, Callable] = {}
        self._stamps: dict[Key, Stamp] = {}
        self._local = len(mesh.local_devices)

    def run(self, tasks: Sequence[Task]) -> int:
        """Do what is not done yet; one line per image is on disk when its batch is.

        Args:
          tasks: every process must name the same, in any order that all share.

        Returns:
          how many images this process scored (or found to be bad) now.
        """
        _check_same(tasks)
        stamps = agreed_stamps(read_stamps(tasks, self._predictions))
        self._stamps = {task.key: stamp for task, stamp in zip(tasks, stamps, strict=True)}
        done = _agreed(self._done(tasks))
        waiting = [task for task, is_done in zip(tasks, done, strict=True) if not is_done]
        planned = batches(
            waiting,
            self._settings.bucket,
            self._local,
            self._settings.batch_size,
            jax.process_index(),
            jax.process_count(),
        )
        if len(waiting) < len(tasks):
            logging.info("%d of %d images are done already.", len(tasks) - len(waiting), len(tasks))
        count, log = 0, RowLog(self._folder / ROWS, jax.process_index())
        total = sum(row is not None for batch in planned for row in batch.rows)
        report = Progress(total, "scoring")
        writing: list[tuple[Row, Future | None]] = []
        with ThreadPoolExecutor(1) as pool, report:
            for batch, loaded in read_ahead(planned, self._settings.seed, self._predictions):
                made = self._work(batch, loaded)
                _settle(writing, log)
                writing = [self._keep(pool, row, image) for row, image in made]
                count += len(made)
                report.advance(len(made))
            _settle(writing, log)
        log.close()
        return count

    def _done(self, tasks: Sequence[Task]) -> np.ndarray:
        """Return which tasks have a score of the files that are there now."""
        good, still = (
            {
                key
                for key, row in read_rows(self._folder / ROWS, stamps).items()
                if "error" not in row
            }
            for stamps in (None, self._stamps)
        )
        keys = [task.key for task in tasks]
        if changed := sum(key in good and key not in still for key in keys):
            logging.info("%d scores are made again: their files have changed.", changed)
        return np.array([key in still for key in keys], bool)

    def _work(self, batch: Batch, loaded: Loaded) -> list[tuple[Row, np.ndarray | None]]:
        """Restore and score a batch; a line for each of its images, and the image."""
        together = self._local * (1 if self._settings.exact else self._settings.batch_size)
        parts = []
        for start in range(0, batch.filled, together):
            rows = slice(start, start + together)
            parts.append(self._call(batch, loaded, rows))
        answers = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        made = []
        for row, task in enumerate(batch.rows):
            if task is not None:
                numbers = {key: value[row] for key, value in answers.items()}
                made.append(self._line(task, numbers, loaded.errors.get(row)))
        return made

    def _call(self, batch: Batch, loaded: Loaded, rows: slice) -> dict[str, np.ndarray]:
        on_devices = {
            name: program.to_devices(getattr(loaded, name)[rows], self._mesh)
            for name in ("lq", "gt", "sizes", "hashes")
        }
        lq, gt, sizes, hashes = on_devices.values()
        extra, seconds = {}, 0.0
        if self._system is None:
            restored = program.to_devices(
                loaded.restored[rows].astype(np.float32) / 255, self._mesh
            )
        else:
            restore = self._restorer(batch, lq, hashes)
            started = time.perf_counter()
            extra = jax.block_until_ready(restore(self._variables, lq, hashes))
            seconds = time.perf_counter() - started
            restored = extra.pop("restored")
        score = self._scorer(batch, restored, lq, gt, sizes)
        answer = score(self._networks, restored, lq, gt, sizes)
        answer = {name: program.to_host(value) for name, value in (answer | extra).items()}
        images_each = len(answer["finite"]) // self._local
        return answer | {"seconds": np.full(len(answer["finite"]), seconds / images_each)}

    def _restorer(self, batch: Batch, *arrays: jax.Array) -> Callable:
        def make():
            height, width = batch.shape
            is_large = height * width > self._settings.largest_whole * 1e6
            tile = self._settings.tile if is_large else 0
            tile = tile if max(batch.shape) > tile else 0
            system = self._system
            return program.restorer(
                system.model, system.config, batch.variant, self._settings.seed, tile
            )

        key = ("restore", batch.shape, batch.variant)
        return self._compiled(key, make, 1, self._variables, *arrays)

    def _scorer(self, batch: Batch, *arrays: jax.Array) -> Callable:
        def make():
            return program.scorer(PROTOCOLS[batch.protocol], self._fitting(batch.shape))

        key = ("score", batch.shape, batch.protocol)
        return self._compiled(key, make, 1, self._networks, *arrays)

    def _fitting(self, size: tuple[int, int]) -> list[str]:
        """Return the metrics that images of a size are large enough for."""
        return [
            name
            for name in self._metrics
            if name in SCORES or min(size) >= perceptual.smallest(name)
        ]

    def _compiled(self, key: tuple, make: Callable, fixed: int, *args: Any) -> Callable:
        if key not in self._programs:
            # Buckets come one after the other: older programs are not needed again.
            self._programs = {k: v for k, v in self._programs.items() if k[1] == key[1]}
            self._programs[key] = program.compiled(make(), self._mesh, fixed, *args)
        return self._programs[key]

    def _line(self, task: Task, numbers: dict, error: str | None) -> tuple[Row, Any]:
        item, variant = task.item, task.variant
        line = {"variant": variant.name, "set": item.spec.name, "image": item.name}
        files = {"files": self._stamps[task.key]}
        if error is None and not numbers["finite"]:
            error = "the output holds NaN or infinite values"
        if error is not None:
            logging.warning("%s, %s: %s", item.spec.name, printable(item.name), error)
            return line | {"error": error} | files, None
        height, width = item.size
        line |= {"height": height, "width": width, "protocol": item.spec.protocol}
        if item.gt is not None:
            line |= {
                prefix + name: number(numbers[prefix + name])
                for name in self._fitting(item.size)
                for prefix in ("", "input_")
            }
        if self._system is not None:
            line |= _cost(variant, numbers, self._settings.seed)
            if "logits" in numbers:
                line |= self._predicted(numbers["logits"])
        line |= {"recipe": item.recipe(self._settings.seed), "truth": item.spec.degradation}
        return line | files, numbers["image"][:height, :width]

    def _predicted(self, logits: np.ndarray) -> Row:
        config = self._system.config
        kind, names = config.priors.classification, config.data.degradations
        return predicted(np.asarray(class_probabilities(logits, kind)), names, kind)

    def _keep(self, pool: ThreadPoolExecutor, row: Row, image: np.ndarray | None):
        if image is None or not self._settings.save_images or self._predictions is not None:
            return row, None
        path = image_path(self._folder, row["variant"], row["set"], row["image"])
        return row, pool.submit(write_image, path, image)


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
    return {"nfe": variant.steps, "seconds": seconds, "seed": seed}


def _settle(writing: list[tuple[Row, Future | None]], log: RowLog) -> None:
    """Wait for the images of the last batch, then write their lines: a line vouches for both."""
    for _, future in writing:
        if future is not None:
            future.result()
    log.write(row for row, _ in writing)
    writing.clear()


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
