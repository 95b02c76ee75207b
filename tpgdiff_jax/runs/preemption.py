"""Notices that a run is asked to end (SIGTERM, Ctrl-C), and the step at which all stop."""

import itertools
import signal
import threading
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils

from tpgdiff_jax.reporting.errors import UserError

# Questions asked since this process began.  JAX answers yes at the question after the last one
# any process had asked when the signal came, so the numbers may neither jump nor start again.
_QUESTIONS = itertools.count()
# Of this process: whether it was a Ctrl-C that asked for the end.  Programs then leave with 130.
_INTERRUPTED = threading.Event()
# JAX says yes to one question only.  Who asks again, in a later stage of the run, say, must hear it
# as well: an end that was asked for stays asked for.
_AGREED = threading.Event()


def was_interrupted() -> bool:
    """Tell whether a Ctrl-C asked a run of this process to end."""
    return _INTERRUPTED.is_set()


class Preemption:
    """Turn SIGTERM and Ctrl-C into a question that a loop asks at every step.

    Use as a context manager.  A run of one process catches the signals itself; a second SIGTERM
    then does what it did before, and a second Ctrl-C ends the process at once, so one that hangs
    can still be ended.  In a run of several processes JAX's preemption service
    (`jax_enable_preemption_service`, on by default) has caught SIGTERM since
    `jax.distributed.initialize`: whichever process receives it, the service takes the last question
    any process has asked and answers yes to all of them at the one after it.  A Ctrl-C is handed on
    to it as SIGTERM.
    """

    def __init__(self):
        """Prepare; signals are caught between entering and leaving."""
        self._requested = threading.Event()
        self._before: dict[signal.Signals, Any] = {}
        self._is_agreed = jax.distributed.is_initialized()

    def __enter__(self) -> "Preemption":
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main and not self._is_agreed:
            raise UserError(
                "Signals can only be caught from the main thread: train there, not in a thread."
            )
        if is_main:
            caught = (signal.SIGINT,) if self._is_agreed else (signal.SIGTERM, signal.SIGINT)
            self._before = {number: signal.signal(number, self._notice) for number in caught}
        return self

    def __exit__(self, *_) -> None:
        self._restore()
        self._before = {}

    def requested(self) -> bool:
        """Tell whether a signal came.  Always False where JAX agrees on it; ask `reached`."""
        return self._requested.is_set()

    def reached(self) -> bool:
        """Tell whether to save and stop after this step, the same in all processes.

        Once it is so, it stays so.

        In a run of several processes each of them must ask equally often: after every step.

        Raises:
          RuntimeError: several processes, and `jax_enable_preemption_service` is off.
        """
        if self._is_agreed:
            if multihost_utils.reached_preemption_sync_point(next(_QUESTIONS)):
                _AGREED.set()
            return _AGREED.is_set()
        return self.requested()

    def _notice(self, number, frame) -> None:
        name = "SIGTERM"
        if number == signal.SIGINT:
            name = "Ctrl-C"
            _INTERRUPTED.set()
        text = "%s: the run will be saved after this step; a second one ends it now."
        logging.warning(text, name)
        self._restore()
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the process, whatever it does
        if self._is_agreed:
            signal.raise_signal(signal.SIGTERM)
        else:
            self._requested.set()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
