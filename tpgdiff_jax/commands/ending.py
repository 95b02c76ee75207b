"""Ctrl-C: once ends with a sentence and exit code 130, twice at once."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from tpgdiff_jax.commands import flags, mode_flags

INTERRUPTED = 130  # exit code of programs that a Ctrl-C ended: 128 + SIGINT


@contextlib.contextmanager
def ending_on_ctrl_c() -> Iterator[None]:
    """Say what a Ctrl-C leaves behind, without a traceback; a second one ends the process at once.

    Training listens by itself while it runs: see `runs.preemption`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        kept = mode_flags.MODES[flags.program_typed(sys.argv)].kept
        print(f"\nStopped by Ctrl-C. {kept}", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)  # the next signal ends the process also while it waits for threads
    signal.signal(signal.SIGINT, before)


def _interrupt(number, frame) -> None:
    # The operating system ends the process at the next one, whatever it is busy with.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt
