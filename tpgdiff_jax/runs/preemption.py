"""Notices that this machine will be taken away (SIGTERM), and the step at which all stop."""

import itertools
import signal
import threading

import jax
from absl import logging
from jax.experimental import multihost_utils

from tpgdiff_jax.reporting.errors import UserError

# Questions asked since this process began.  JAX answers yes at the question after the last one
# any process had asked when the signal came, so the numbers may neither jump nor start again.
_QUESTIONS = itertools.count()


class Preemption:
    """Turn SIGTERM into a question that a loop asks at every step.  Use as a context manager.

    A run of one process catches the signal itself; a second SIGTERM then does what it did before,
    so a process that hangs can still be ended.  In a run of several processes JAX's preemption
    service (`jax_enable_preemption_service`, on by default) has caught the signal since
    `jax.distributed.initialize`: whichever process receives it, the service takes the last question
    any process has asked and answers yes to all of them at the one after it.
    """

    def __init__(self):
        """Prepare; signals are caught between entering and leaving."""
        self._requested = threading.Event()
        self._before = None
        self._is_agreed = jax.distributed.is_initialized()

    def __enter__(self) -> "Preemption":
        if self._is_agreed:
            return self
        if threading.current_thread() is not threading.main_thread():
            raise UserError(
                "SIGTERM can only be caught from the main thread: train there, not in a thread."
            )
        self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def requested(self) -> bool:
        """Tell whether SIGTERM came.  Always False where JAX catches it; ask `reached` instead."""
        return self._requested.is_set()

    def reached(self) -> bool:
        """Tell whether to save and stop after this step, the same in all processes.

        In a run of several processes each of them must ask equally often: after every step.

        Raises:
          RuntimeError: several processes, and `jax_enable_preemption_service` is off.
        """
        if self._is_agreed:
            return multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))
        return self.requested()

    def _notice(self, number, frame) -> None:
        self._requested.set()
        self._restore()
        logging.warning("SIGTERM: the run will be saved after this step; a second one ends it now.")

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None
