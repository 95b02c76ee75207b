"""Restore many files: resumable, nothing half written, every bad file listed."""

import dataclasses
import datetime
import errno
import functools
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
from tpgdiff_jax.inference.log import LOG_NAME, name_within
from tpgdiff_jax.inference.plan import Task
from tpgdiff_jax.inference.present import look_at
from tpgdiff_jax.inference.reading import in_threads
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable
from tpgdiff_jax.reporting.json_lines import JsonLines
from tpgdiff_jax.reporting.progress import Progress
from tpgdiff_jax.stores.copies import Stamp
from tpgdiff_jax.stores.places import shown, with_addresses
from tpgdiff_jax.stores.urls import named

# Not this file is at fault but the folder or the disk: every other file would fail, too.
_FOLDER_AT_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_LOG_AT_FAULT = (*_FOLDER_AT_FAULT, errno.EFBIG)


@dataclasses.dataclass
class Summary:
    """What a job did.

    Attributes:
      done: files restored now.
      changed: how many of these had a result already, and have changed since that was made.
      present: files whose result was there already.
      other_settings: how many of those the log says were made with other settings or weights.
      side_by_side: how many of those got the picture of that kind which they lacked.
      others: file -> what its result is and was made from, where the log names another file.
      failed: file -> why it could not be restored.
      stopped: why the job stopped early; "" if it did not.
      left: files it did not come to then.
    """

    done: int = 0
    changed: int = 0
    present: int = 0
    other_settings: int = 0
    side_by_side: int = 0
    others: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    stopped: str = ""
    left: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every file has its result."""
        return not (self.failed or self.others or self.stopped)

    def fail(self, task: Task, reason: str) -> None:
        """List a file that could not be restored."""
        self.failed[named(task.source)] = reason
        logging.warning("Skipping %s: %s", printable(named(task.source)), reason)


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
) -> Summary:
    """Restore files; those whose result is there already are left alone.

    A file that has changed since is restored anew.  A result that was made from another file is
    left alone, too, and listed.  Files are read ahead
    and results written behind, in threads.  Beside a result `photo.png` stand, where asked for,
    `photo.deviation.png` (white is a standard deviation of 0.1 or more) and
    `photo.side_by_side.png` (degraded | restored).

    Args:
      restorer: the system.
      tasks: of `plan.plan`.
      output: where the log goes: a line per image with its input, size, seconds, predicted
        degradation, sampling and the weights' fingerprint.
      sampling: how, as `Restorer.checked` returns it.
      batch_size: as for `Restorer.iterate`.
      side_by_side: write these pictures, also of results that are there already.
      log_name: name of the log; processes that share a folder need different ones.
      exists: tells whether a result is there already.
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
    summary = Summary(
        present=len(there.own), other_settings=there.other_settings, others=there.others
    )
    if changed:
        logging.info("%d files have changed since they were restored.", len(changed))
    if there.others:
        logging.warning("%d results there were made from other files.", len(there.others))
    lacking = [task for task in there.own if side_by_side and not exists(task.beside(beside.KIND))]
    chunks = list(_chunks(restorer, waiting, batch_size, sampling, summary))
    stamps: dict[Task, Stamp | None] = {}  # of files as they were read

    def read(task: Task) -> InputImage:
        stamps[task] = task.stamp()  # before: what changes meanwhile has another one
        return as_input(task.source, marked=True)

    def wanted(task: Task) -> bool:  # another job on this folder may have been faster
        return task in changed or not exists(task.target)

    def file(outcome: Outcome, writing: Future | None) -> None:
        stamp = stamps.pop(outcome.source, None)
        if why := _failure(outcome, writing):
            summary.fail(outcome.source, why)
        elif outcome.result is None:
            summary.present += 1
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

    writer = WriteBehind(functools.partial(_write, side_by_side), file)
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
        with WriteBehind(beside.add, count_added) as adding:
            for task in lacking:
                adding.put(task, task)
    except OSError as error:  # of a result's folder or the log; inputs at fault are listed
        if error.errno not in _LOG_AT_FAULT:
            raise
        summary.done += writer.written()  # beside the one at fault; no line says so
        summary.stopped = f"{with_addresses(str(output))} cannot be written: {error.strerror}"
        made_elsewhere = summary.present - len(there.own)
        failed = sum(named(task.source) in summary.failed for task in waiting)
        summary.left = len(waiting) - summary.done - failed - made_elsewhere
    return summary


def describe(summary: Summary, output: pathlib.Path) -> str:
    """Say what a job did, with every file that failed."""
    lines = [
        f"{summary.done} restored, {summary.present} were there already, {len(summary.failed)} "
        f"failed: {shown(output)}"
    ]
    if summary.changed:
        lines.append(f"  {summary.changed} of the restored had changed since their last result")
    if summary.side_by_side:
        lines.append(f"  {summary.side_by_side} of those there got their side-by-side picture")
    if summary.other_settings:
        lines.append(
            f"  {summary.other_settings} of those there were made with other settings or weights; "
            "remove them, or choose another --output, to restore them anew"
        )
    if summary.others:
        lines.append(
            f"  {len(summary.others)} were not restored: their results there were made from other "
            "files; choose another --output, or remove these results"
        )
    lines += [f"  not restored: {file}: {what}" for file, what in summary.others.items()]
    lines += [f"  failed: {file}: {reason}" for file, reason in summary.failed.items()]
    if summary.stopped:
        lines.append(f"  stopped: {summary.stopped}; {summary.left} files are left, run it again")
    return "\n".join(lines)


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
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if restored.deviation is not None:
        row["mean_deviation"] = round(float(restored.deviation.mean()), 5)
    return row


def _write(side_by_side: bool, task: Task, degraded: InputImage, restored: Restored) -> None:
    """Write a result, last of all, so that where it is the rest is, too."""
    image = np.asarray(restored.image)
    result = for_format(image, task.target.suffix.lower())
    if restored.deviation is not None:
        write_image(task.beside("deviation"), restored.deviation_picture())
    if side_by_side:
        beside.write(task, degraded, image)
    write_image(task.target, result, degraded.metadata)
