"""What a run tells its user while it works: progress, metrics, pictures, events."""

import datetime
import math
import pathlib
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from absl import logging

from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.reporting import json_lines
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.reporting.progress import Progress, log, time_left
from tpgdiff_jax.runs.workdir import writing
from tpgdiff_jax.training.tensorboard import EventFile


class RunReport:
    """Write metrics to `metrics.jsonl` and TensorBoard files, and show progress.

    On a terminal progress is a bar with rate and remaining time; elsewhere one log line at every
    report.  Only process 0 writes; the others' reports do nothing.  What cannot be written raises
    RunStoppedError.
    """

    def __init__(self, workdir: pathlib.Path, *, start: int, total: int, is_writer: bool = True):
        """Open the reports of a run.

        Args:
          workdir: the run's folder.
          start: steps already taken before this start.
          total: steps at the end of the run.
          is_writer: whether this process reports at all.
        """
        self._is_writer = is_writer
        if not is_writer:
            return
        self._workdir = workdir
        self._step = start
        path = workdir / "metrics.jsonl"
        with self._writing():
            drop_lines_after(path, start)
            self._metrics = json_lines.JsonLines(path)
            # What step `start` reported stays: it stood before the checkpoint, as in the metrics.
            purged = start + 1 if start else 0
            self._board = EventFile(workdir / "tensorboard", purged)
        self._bar = Progress(
            total, "training", unit="step", initial=start, speaks=True, lines=False
        )
        self._total = total
        self._last = (start, time.monotonic())

    def advance(self) -> None:
        """Count one step."""
        if self._is_writer:
            self._bar.advance()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report the metrics of the steps up to `step`; NaN (nothing measured) is left out.

        An infinite value, such as the PSNR of equal images, is the text "inf" in `metrics.jsonl`.

        Args:
          step: number of the last step.
          metrics: by name.  TensorBoard groups "speed/step_seconds" under "speed", and names
            without a group under "train".
        """
        if not self._is_writer:
            return
        self._step = step
        values = {k: float(v) for k, v in metrics.items() if not math.isnan(v)}
        with self._writing():
            self._metrics.write({"step": step, **values})
            for name, value in values.items():
                self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)
        if "loss" not in values:  # of validation, say
            log(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
            return
        loss = values["loss"]
        self._bar.show(loss=f"{loss:.4f}")
        if not self._bar.is_terminal:
            # Since the last report, so that compiling does not spoil the estimate for long.
            (last_step, last_time), self._last = self._last, (step, time.monotonic())
            rate = (step - last_step) / max(self._last[1] - last_time, 1e-9)
            left = time_left(self._total - step, rate)
            text = "step %d of %d, loss %.4f, %.2f steps/s, %s left"
            logging.info(text, step, self._total, loss, rate, left)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """Show a picture in TensorBoard, and write it to workdir/pictures/NAME_STEP.png.

        Args:
          name: of what it shows; "/" groups pictures in TensorBoard.
          image: uint8 [H, W, 3], RGB.
          step: of the state that made it.

        Raises:
          ValueError: it is no such image.
        """
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise ValueError(
                f"picture {name!r}: expected uint8 [H, W, 3], found {image.dtype} "
                f"{list(image.shape)}."
            )
        if not self._is_writer:
            return
        folder = self._workdir / "pictures"
        with self._writing():
            folder.mkdir(exist_ok=True)
            write_image(folder / f"{name.replace('/', '_')}_{step}.png", image)
            self._board.add_image(name, image, step)

    def event(self, text: str) -> None:
        """Tell what happened once: logged, in TensorBoard's texts, a line of `events.jsonl`."""
        if not self._is_writer:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        row = {"time": now, "step": self._step, "event": text}
        with self._writing():
            json_lines.append(self._workdir / "events.jsonl", row)
            self._board.add_text("event", text, self._step)
        log(text)

    def close(self) -> None:
        """Flush and close everything."""
        if self._is_writer:
            self._bar.close()
            with self._writing():
                self._metrics.close()
                self._board.close()

    def _writing(self) -> AbstractContextManager[None]:
        return writing(f"The reports of --workdir={self._workdir}")


def drop_lines_after(path: pathlib.Path, step: int) -> None:
    """Take out of a metrics file what a resumed run will write again, and what is no report.

    Args:
      path: of the file; nothing happens where there is none.
      step: of the checkpoint that the run continues.  0: it starts anew and writes all again, its
        validation before the first step included.
    """
    if not path.exists():
        return
    rows = json_lines.read(path) if step else ()
    kept = [row for row in rows if _is_step(row.get("step")) and row["step"] <= step]
    write_text(path, "".join(map(json_lines.as_line, kept)))


def _is_step(value: Any) -> bool:
    return isinstance(value, int | float)
