"""What a run tells its user while it works: a progress bar, JSONL and TensorBoard metrics."""

import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping

import tensorboardX
import tqdm
from absl import logging


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
        """Report the metrics of the steps up to `step`; NaN (nothing measured) is left out."""
        if not self._is_writer:
            return
        values = {k: float(v) for k, v in metrics.items() if not math.isnan(v)}
        self._jsonl.write(json.dumps({"step": step, **values}) + "\n")
        self._jsonl.flush()
        for name, value in values.items():
            self._board.add_scalar(f"train/{name}", value, step)
        loss = values.get("loss", math.nan)
        self._bar.set_postfix(loss=f"{loss:.4f}")
        if not self._terminal:
            # Since the last report, so that compiling does not spoil the estimate for long.
            (last_step, last_time), self._last = self._last, (step, time.monotonic())
            rate = (step - last_step) / max(self._last[1] - last_time, 1e-9)
            left = tqdm.tqdm.format_interval((self._total - step) / max(rate, 1e-9))
            text = "step %d of %d, loss %.4f, %.2f steps/s, %s left"
            logging.info(text, step, self._total, loss, rate, left)

    def close(self) -> None:
        """Flush and close everything."""
        if self._is_writer:
            self._bar.close()
            self._jsonl.close()
            self._board.close()


def drop_lines_after(path: pathlib.Path, step: int) -> None:
    """Take out of a metrics file what a resumed run will write again (and any cut-off line)."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["step"] <= step:
            kept.append(line + "\n")
    temporary = path.with_suffix(".partial")
    temporary.write_text("".join(kept))
    temporary.replace(path)
