"""Restore many files: resumable, nothing half written, every bad file listed."""

import datetime
import errno
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from absl import logging

from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.data.pictures import memory
from tpgdiff_jax.data.pictures.door import read_size
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.data.pictures.writing import for_format
from tpgdiff_jax.inference import side_by_side as beside
from tpgdiff_jax.inference.engine import Outcome, WriteBehind, reason
from tpgdiff_jax.inference.input_images import InputImage, Restored, as_input
from tpgdiff_jax.inference.log import LOG_NAME, name_within, write_failures
from tpgdiff_jax.inference.plan import Task, is_there_now
from tpgdiff_jax.inference.present import look_at
from tpgdiff_jax.inference.reading import in_threads
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.inference.summary import Summary
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.json_lines import JsonLines
from tpgdiff_jax.reporting.progress import Progress
from tpgdiff_jax.stores.copies import Stamp
from tpgdiff_jax.stores.places import shown, with_addresses
from tpgdiff_jax.stores.urls import named

# Not this file is at fault but the folder or the disk: every other file would fail, too.
_FOLDER_AT_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_LOG_AT_FAULT = (*_FOLDER_AT_FAULT, errno.EFBIG)


def run(
    restorer: Restorer,
    tasks: Sequence[Task],
    output: pathlib.Path,
    *,
    sampling: Sampling,
    batch_size: int = 4,
    side_by_side: bool = False,
    log_name: str = LOG_NAME,
    exists: Callable[[pathlib.Path], bool] = os.path.exists,
    newest_logs: Callable[[], pathlib.Path] | None = None,
) -> Summary:
    """Restore files; those whose result is there already are left alone.

    A file that has changed since is restored anew.  A result that was made from another file is
    left alone, too, and listed; so is one that another job makes meanwhile.  Files are read ahead
    and results written behind, in threads.  Beside a result `photo.png` stand, where asked for,
    `photo.deviation.png` (white is a standard deviation of 0.1 or more) and
    `photo.side_by_side.png` (degraded | restored).

    Args:
      restorer: the system.
      tasks: of `plan.plan`.
      output: where the log goes: a line per image with its input, size, seconds, predicted
        degradation, sampling and the weights' fingerprint; and a list of what was not restored.
      sampling: how, as `Restorer.checked` returns it.
      batch_size: as for `Restorer.iterate`.
      side_by_side: write these pictures, also of results that are there already.
      log_name: name of the log; processes that share a folder need different ones.
      exists: tells whether a result is there already.
      newest_logs: returns where other jobs' logs can be read as they are then; None: in `output`.
    """
    settings = {
        **sampling.as_logged(),
        "weights": restorer.fingerprint,
        "dtype": restorer.config.model.dtype,
    }
    are_there = list(in_threads(lambda task: exists(task.target), tasks))
    there = look_at(list(itertools.compress(tasks, are_there)), output, settings)
    changed = set(there.changed)
    waiting = [
        task
        for task, is_there in zip(tasks, are_there, strict=True)
        if not is_there or task in changed
    ]
    summary = Summary(present=len(there.own))
    summary.tell_of(there)
    if changed:
        logging.info("%d files have changed since they were restored.", len(changed))
    made_elsewhere: list[Task] = []  # meanwhile, by another job
    chunks = list(_chunks(restorer, waiting, batch_size, sampling, summary))
    stamps: dict[Task, Stamp | None] = {}  # of files as they were read

    def read(task: Task) -> InputImage:
        stamps[task] = task.stamp()  # before: what changes meanwhile has another one
        return as_input(task.source, marked=True)

    def wanted(task: Task) -> bool:  # another job on this folder may have been faster
        return task in changed or not is_there_now(task.target)

    def file(outcome: Outcome, writing: Future | None) -> None:
        stamp = stamps.pop(outcome.source, None)
        if why := _failure(outcome, writing):
            summary.fail(outcome.source, why)
        elif writing is None or not writing.result():
            summary.present += 1
            made_elsewhere.append(outcome.source)
        else:
            summary.done += 1
            summary.changed += outcome.source in changed
            name = name_within(output, outcome.source.target)
            log.write({"name": name, **_line(outcome), "stamp": stamp, **settings})

    def count_added(task: Task, writing: Future | None) -> None:
        if why := _failure(Outcome(task), writing):
            summary.fail(task, f"no side-by-side picture: {why}")
        else:
            summary.side_by_side += 1

    def write(task: Task, degraded: InputImage, restored: Restored) -> bool:
        if not wanted(task):
            return False
        return _write(task, degraded, restored, side_by_side, replaces=task in changed)

    writer = WriteBehind(write, file)
    try:
        with (
            JsonLines(output / log_name) as log,
            Progress(len(waiting), "restoring", initial=len(summary.failed)) as bar,
            writer,
        ):
            for outcome in restorer.outcomes(chunks, read, batch_size, sampling, wanted):
                if outcome.result is None:
                    writer.put(outcome)
                else:
                    made = (outcome.source, outcome.item, outcome.result)
                    writer.put(outcome, *made, room=_room(outcome.item))
                bar.advance(1)
        if summary.done and not os.path.exists(output / log_name):
            summary.stopped = f"{with_addresses(str(output))} was removed or moved meanwhile"
            missing = [named(task.source) for task in tasks if not exists(task.target)]
            summary.left = sum(name not in summary.failed for name in missing)
            return summary
        logs = newest_logs() if newest_logs and made_elsewhere else output
        meanwhile = look_at(made_elsewhere, logs, settings)
        summary.present -= len(meanwhile.others)
        summary.tell_of(meanwhile)
        with WriteBehind(beside.add, count_added) as adding:
            for task in (*there.own, *meanwhile.own) if side_by_side else ():
                if not exists(task.beside(beside.KIND)):
                    adding.put(task, task)
        write_failures(output / log_name, summary.failed | summary.others)
    except OSError as error:  # of a result's folder or the log; inputs at fault are listed
        if error.errno not in _LOG_AT_FAULT:
            raise
        summary.done += writer.written()  # beside the one at fault; no line says so
        summary.stopped = f"{with_addresses(str(output))} cannot be written: {error.strerror}"
        failed = sum(named(task.source) in summary.failed for task in waiting)
        summary.left = len(waiting) - summary.done - failed - len(made_elsewhere)
    return summary


def _chunks(
    restorer: Restorer,
    tasks: Sequence[Task],
    batch_size: int,
    sampling: Sampling,
    summary: Summary,
) -> Iterator[list[Task]]:
    """Yield files of one padded size; only headers are read."""

    def size(task: Task) -> tuple[int, int] | Exception:
        try:
            return read_size(task.source)
        except (UnreadableImageError, OSError) as error:
            return error

    found = list(zip(tasks, in_threads(size, tasks), strict=True))
    for task, answer in found:
        if isinstance(answer, Exception):
            summary.fail(task, reason(answer))
    usable = [(task, answer) for task, answer in found if isinstance(answer, tuple)]
    shapes = [shape for _, shape in usable]
    counts = [restorer.windows(shape, sampling) for shape in shapes]
    if max(counts, default=1) > 1:  # on a CPU each takes seconds, and nothing is seen meanwhile
        many = sum(count > 1 for count in counts)
        text = "Large pictures are restored in windows: %d of %d pictures, the largest in %d."
        logging.info(text, many, len(counts), max(counts))
    for chosen in restorer.groups(shapes, batch_size, sampling):
        yield [usable[index][0] for index in chosen]


def _room(picture: InputImage) -> int:
    """Return how many results of this size may wait for the disk: they fill a quarter of memory."""
    held = picture.rgb[..., 0].size * memory.BYTES_PER_PIXEL
    return max(1, memory.total() // (4 * held))


def _failure(outcome: Outcome, writing: Future | None) -> str:
    """Return why a file could not be restored, or its result not written; "" if all is well."""
    if outcome.error is not None:
        return reason(outcome.error)
    try:
        if writing is not None:
            writing.result()
    except (UserError, UnreadableImageError) as error:
        return reason(error)
    except MemoryError:
        return "its result needs more memory than there is"
    except OSError as error:
        if error.errno in _FOLDER_AT_FAULT:
            raise
        return f"its result cannot be written: {error}"
    return ""


def _line(outcome: Outcome) -> dict[str, Any]:
    task, picture, restored = outcome.source, outcome.item, outcome.result
    row = {
        "input": shown(task.source),
        "output": named(task.target),
        "content": picture.mark,
        "height": picture.rgb.shape[0],
        "width": picture.rgb.shape[1],
        "seconds": round(outcome.seconds, 3),
        "degradation": restored.verdict,
        "passes_taken": restored.passes,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if restored.deviation is not None:
        row["mean_deviation"] = round(float(restored.deviation.mean()), 5)
    return row


def _write(
    task: Task, degraded: InputImage, restored: Restored, side_by_side: bool, replaces: bool
) -> bool:
    """Write a result, last of all, so that where it is the rest is, too.

    Returns:
      whether it was written: one that is there stays, unless it shall be replaced.
    """
    image = np.asarray(restored.image)
    result = for_format(image, task.target.suffix.lower())
    if restored.deviation is not None:
        write_image(task.beside("deviation"), restored.deviation_picture())
    if side_by_side:
        beside.write(task, degraded, image)
    try:
        write_image(task.target, result, degraded.metadata, replaces=replaces)
    except FileExistsError:
        return False
    return True
