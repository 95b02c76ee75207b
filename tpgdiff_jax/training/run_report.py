"""What a run tells its user while it works: progress, metrics, pictures, events."""

import datetime
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping

import numpy as np
import tensorboardX
import tqdm
from absl import logging

from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.reporting import json_text


class RunReport:
    """Write metrics to `metrics.jsonl` and TensorBoard files, and show progress.

    On a terminal progress is a bar with rate and remaining time; elsewhere one log line at every
    report.  Only process 0 writes; the others' reports do nothing.
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
        drop_lines_after(path, start)
        self._jsonl = path.open("a")
        self._board = tensorboardX.SummaryWriter(str(workdir / "tensorboard"), purge_step=start)
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            initial=start,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            disable=not self._terminal,
        )
        self._total = total
        self._last = (start, time.monotonic())

    def advance(self) -> None:
        """Count one step."""
        if self._is_writer:
            self._bar.update()

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
        self._jsonl.write(json_text.dumps({"step": step, **values}) + "\n")
        self._jsonl.flush()
        for name, value in values.items():
            self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)
        if "loss" not in values:  # of validation, say
            self._log(f"step {step}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
            return
        loss = values["loss"]
        self._bar.set_postfix(loss=f"{loss:.4f}")
        if not self._terminal:
            # Since the last report, so that compiling does not spoil the estimate for long.
            (last_step, last_time), self._last = self._last, (step, time.monotonic())
            rate = (step - last_step) / max(self._last[1] - last_time, 1e-9)
            left = tqdm.tqdm.format_interval((self._total - step) / max(rate, 1e-9))
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
        folder.mkdir(exist_ok=True)
        target = folder / f"{name.replace('/', '_')}_{step}.png"
        write_image(target, image)
        self._board.add_image(name, image, step, dataformats="HWC")

    def event(self, text: str) -> None:
        """Tell what happened once: logged, in TensorBoard's texts, a line of `events.jsonl`."""
        if not self._is_writer:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with (self._workdir / "events.jsonl").open("a") as file:
            file.write(json.dumps({"time": now, "step": self._step, "event": text}) + "\n")
        self._board.add_text("event", text, self._step)
        self._log(text)

    def _log(self, text: str) -> None:
        with tqdm.tqdm.external_write_mode():  # a bar would stand in the way
            logging.info("%s", text)

    def close(self) -> None:
        """Flush and close everything."""
        if self._is_writer:
            self._bar.close()
            self._jsonl.close()
            self._board.close()


def drop_lines_after(path: pathlib.Path, step: int) -> None:
    """Take out of a metrics file what a resumed run will write again, and what is no report.

    Args:
      path: of the file; nothing happens where there is none.
      step: of the checkpoint that the run continues.  0: it starts anew and writes all again, its
        validation before the first step included.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines() if step else ():
        try:
            row = json.loads(line)
            is_kept = row["step"] <= step
        except (ValueError, KeyError, TypeError):  # cut off, or a line of another kind
            continue
        if is_kept:
            kept.append(json_text.dumps(row) + "\n")
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(kept))
    temporary.replace(path)
