"""How far a benchmark is."""

import sys
import time

import jax
import tqdm
from absl import logging


class Progress:
    """A bar on a terminal, plain log lines elsewhere; process 0 alone speaks."""

    def __init__(self, total: int):
        """Start.

        Args:
          total: images of this process.
        """
        self._quiet = jax.process_index() != 0
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total, unit="image", desc="scoring", disable=self._quiet or not is_terminal
        )
        self._total, self._count, self._logs = total, 0, not self._quiet and not is_terminal
        self._started = self._said = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        """Count images."""
        self._bar.update(count)
        self._count += count
        now = time.monotonic()
        if self._logs and (now - self._said > 30 or self._count == self._total):
            self._said, rate = now, self._count / max(now - self._started, 1e-9)
            left = tqdm.tqdm.format_interval((self._total - self._count) / max(rate, 1e-9))
            logging.info(
                "%d of %d images of this process, %.2f/s, %s left",
                self._count,
                self._total,
                rate,
                left,
            )
