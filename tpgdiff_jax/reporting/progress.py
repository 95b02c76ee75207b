"""How far a program is."""

import sys
import threading
import time

import jax
import tqdm
from absl import logging

_SECONDS = 30  # between two lines
_TICK_SECONDS = 1.0  # after which a bar shows the time anew, whether or not a unit is done


class Progress:
    """A bar on a terminal, plain log lines elsewhere; a context manager."""

    def __init__(
        self,
        total: int,
        doing: str,
        *,
        unit: str = "image",
        initial: int = 0,
        speaks: bool | None = None,
        lines: bool = True,
    ):
        """Start.

        Args:
          total: units of this process.
          doing: what is done to them, in a word.
          unit: what is counted; its plural ends in s.
          initial: units that are done already.
          speaks: whether this process says anything; None: process 0 alone, which asks JAX and
            starts its devices.
          lines: whether to log lines where there is no terminal; False for who has lines of its
            own.
        """
        speaks = jax.process_index() == 0 if speaks is None else speaks
        self.is_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            initial=initial,
            unit=unit,
            desc=doing,
            dynamic_ncols=True,
            disable=not (speaks and self.is_terminal),
        )
        self._logs = speaks and lines and not self.is_terminal
        self._unit, self._doing = unit, doing
        self._total, self._count, self._initial = total, initial, initial
        self._started = self._said = time.monotonic()
        self._is_over = threading.Event()
        self._ticking = threading.Thread(target=self._tick, daemon=True, name="progress")

    def __enter__(self) -> "Progress":
        if not self._bar.disable:
            self._ticking.start()
        return self

    def __exit__(self, error_type: object, error: object, traceback: object) -> None:
        self.close()
        if isinstance(error, KeyboardInterrupt):  # who shows it says how far it was
            error.add_note(f"{self._doing}: {self._count} of {self._total} {self._unit}s done")

    def advance(self, count: int = 1) -> None:
        """Count units that are done."""
        self._bar.update(count)
        self._count += count
        now = time.monotonic()
        if self._logs and (now - self._said > _SECONDS or self._count == self._total):
            self._said = now
            rate = (self._count - self._initial) / max(now - self._started, 1e-9)
            text = "%s: %d of %d %ss of this process, %.2f/s, %s left"
            done = self._doing, self._count, self._total, self._unit
            logging.info(text, *done, rate, time_left(self._total - self._count, rate))

    def show(self, **values: str) -> None:
        """Show values beside the bar, if there is one."""
        self._bar.set_postfix(values)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._is_over.set()
        if self._ticking.is_alive():
            self._ticking.join()
        self._bar.close()

    def _tick(self) -> None:
        """Show that time goes on: one large picture takes minutes on a CPU."""
        while not self._is_over.wait(_TICK_SECONDS):
            self._bar.refresh()


def time_left(count: int, rate: float) -> str:
    """Return how long `count` units take at so many per second, e.g. 02:15."""
    return tqdm.tqdm.format_interval(count / max(rate, 1e-9))


def log(text: str) -> None:
    """Log a line; a bar makes room for it."""
    with tqdm.tqdm.external_write_mode():
        logging.info("%s", text)
