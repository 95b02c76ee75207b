"""Restore many files: resumable, nothing half written, every bad file listed."""

import dataclasses
import datetime
import errno
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from absl import logging

from tpgdiff_jax.data.images import UnreadableImageError, read_size, to_uint8
from tpgdiff_jax.data.pictures.writing import for_format
from tpgdiff_jax.inference.files import write_picture
from tpgdiff_jax.inference.forms import Form, Restored, form_of_any
from tpgdiff_jax.inference.log import JobLog, made_otherwise
from tpgdiff_jax.inference.plan import Task
from tpgdiff_jax.inference.restore import NOT_FINITE, Restorer
from tpgdiff_jax.reporting.files import printable

LOG_NAME = "restored.jsonl"
# Not this file is at fault but the folder or the disk: every other file would fail, too.
_FOLDER_AT_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_LOG_AT_FAULT = (*_FOLDER_AT_FAULT, errno.EFBIG)


@dataclasses.dataclass
class Summary:
    """What a job did.

    Attributes:
      done: files restored now.
      present: files whose result was there already.
      other_settings: how many of those the log says were made with other settings or weights.
      failed: file -> why it could not be restored.
      stopped: why the job stopped early; "" if it did not.
      left: files it did not come to then.
    """

    done: int = 0
    present: int = 0
    other_settings: int = 0
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    stopped: str = ""
    left: int = 0

    def fail(self, task: Task, reason: str) -> None:
        """List a file that could not be restored."""
        self.failed[str(task.source)] = reason
        logging.warning("Skipping %s: %s", printable(task.source), reason)


def run(
    restorer: Restorer,
    tasks: Sequence[Task],
    output: pathlib.Path,
    *,
    options: Mapping[str, Any],
    batch_size: int = 4,
    side_by_side: bool = False,
    log_name: str = LOG_NAME,
) -> Summary:
    """Restore files; those whose result is there already are left alone.

    Beside a result `photo.png` stand, where asked for, `photo.deviation.png` (white is a standard
    deviation of 0.1 or more) and `photo.side_by_side.png` (degraded | restored).

    Args:
      restorer: the system.
      tasks: of `plan.plan`.
      output: where the log goes: a line per image with its size, seconds, predicted degradation,
        options and the weights' fingerprint.
      options: `seed`, `steps`, `sampler` and others of `Restorer.restore_all`.
      batch_size: as for `Restorer.restore_all`.
      side_by_side: write these pictures.
      log_name: name of the log; processes that share a folder need different ones.
    """
    # Not Path.exists: it raises for names too long for the disk, which are to be listed later.
    waiting = [task for task in tasks if not os.path.exists(task.target)]
    settings = {**options, "weights": restorer.fingerprint}
    present = {str(task.target) for task in tasks} - {str(task.target) for task in waiting}
    summary = Summary(
        present=len(present), other_settings=made_otherwise(output / log_name, present, settings)
    )
    batches = list(_batches(restorer, waiting, batch_size, options, summary))
    came_to = len(summary.failed)
    is_terminal = sys.stderr.isatty()
    try:
        with (
            JobLog(output / log_name) as log,
            tqdm.tqdm(
                total=len(waiting), initial=came_to, unit="image", disable=not is_terminal
            ) as bar,
        ):
            for batch in batches:
                _restore(restorer, batch, options, settings, side_by_side, log, summary)
                came_to += len(batch)
                bar.update(len(batch))
                if not is_terminal:
                    logging.info("%d of %d images", came_to, len(waiting))
    except OSError as error:  # of a result's folder or the log; inputs at fault are listed
        if error.errno not in _LOG_AT_FAULT:
            raise
        summary.stopped = f"{output} cannot be written: {error.strerror}"
        made_elsewhere = summary.present - len(present)
        summary.left = len(waiting) - summary.done - len(summary.failed) - made_elsewhere
    return summary


def describe(summary: Summary, output: pathlib.Path) -> str:
    """Say what a job did, with every file that failed."""
    lines = [
        f"{summary.done} restored, {summary.present} were there already, {len(summary.failed)} "
        f"failed: {output.absolute()}"
    ]
    if summary.other_settings:
        lines.append(
            f"  {summary.other_settings} of those there were made with other settings or weights; "
            "remove them, or choose another --output, to restore them anew"
        )
    lines += [f"  failed: {file}: {reason}" for file, reason in summary.failed.items()]
    if summary.stopped:
        lines.append(f"  stopped: {summary.stopped}; {summary.left} files are left, run it again")
    return "\n".join(lines)


def _batches(
    restorer: Restorer,
    tasks: Sequence[Task],
    batch_size: int,
    options: Mapping[str, Any],
    summary: Summary,
) -> Iterator[list[Task]]:
    """Yield files of one padded size; only headers are read."""
    usable, shapes = [], []
    for task in tasks:
        try:
            shapes.append(read_size(task.source))
        except UnreadableImageError as error:
            summary.fail(task, error.reason)
        except OSError as error:
            summary.fail(task, f"cannot be read: {error.strerror or error}")
        else:
            usable.append(task)
    for chosen in restorer.groups(shapes, batch_size, options):
        yield [usable[index] for index in chosen]


def _restore(restorer, batch, options, settings, side_by_side, log: JobLog, summary) -> None:
    """Restore, write and log one batch; a file at fault is listed."""
    usable = list(_read(batch, summary))
    if not usable:
        return
    started = time.perf_counter()
    try:
        results = restorer.restore_all(
            [form for _, form in usable], batch_size=len(batch), strict=False, **options
        )
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError):
            where = "there is"
        elif "RESOURCE_EXHAUSTED" in str(error):
            where = "the device has"
        else:
            raise
        for task, _ in usable:
            summary.fail(task, f"needs more memory than {where}; try a smaller --tile")
        return
    seconds = (time.perf_counter() - started) / len(usable)
    for (task, form), restored in zip(usable, results, strict=True):
        if restored is None:
            summary.fail(task, NOT_FINITE)
            continue
        try:
            _write(task, form, restored, side_by_side)
        except ValueError as error:
            summary.fail(task, str(error))
            continue
        except MemoryError:
            summary.fail(task, "its result needs more memory than there is")
            continue
        except OSError as error:
            if error.errno in _FOLDER_AT_FAULT:
                raise
            summary.fail(task, f"its result cannot be written: {error}")
            continue
        summary.done += 1
        row = {
            "input": str(task.source),
            "output": str(task.target),
            "height": form.rgb.shape[0],
            "width": form.rgb.shape[1],
            "seconds": round(seconds, 3),
            "degradation": restored.verdict,
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        if restored.deviation is not None:
            row["mean_deviation"] = round(float(restored.deviation.mean()), 5)
        log.write({**row, **settings})


def _read(batch: Sequence[Task], summary: Summary) -> Iterator[tuple[Task, Form]]:
    for task in batch:
        if os.path.exists(task.target):  # another job on this folder was faster
            summary.present += 1
            continue
        try:
            form = form_of_any(task.source)
        except UnreadableImageError as error:
            summary.fail(task, error.reason)
        except ValueError as error:
            summary.fail(task, str(error))
        except MemoryError:
            summary.fail(task, "needs more memory than there is")
        except OSError as error:
            summary.fail(task, f"cannot be read: {error.strerror or error}")
        else:
            yield task, form


def _write(task: Task, form: Form, restored: Restored, side_by_side: bool) -> None:
    """Write a result, last of all, so that where it is the rest is, too."""
    image = np.asarray(restored.image)
    result = for_format(image, task.target.suffix.lower())
    if restored.deviation is not None:
        write_picture(task.beside("deviation"), restored.deviation_picture())
    if side_by_side:
        pair = [form.rgb, form_of_any(image).rgb]
        picture = to_uint8(np.concatenate(pair, axis=1))
        write_picture(task.beside("side_by_side"), picture, form.metadata)
    write_picture(task.target, result, form.metadata)
