"""How programs leave: Ctrl-C once ends with a sentence and exit code 130, twice at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from tpgdiff_jax.commands import flags, mode_flags
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.leaving import leave_now

INTERRUPTED = 130  # exit code of programs that a Ctrl-C ended: 128 + SIGINT
_MOST_CODE = 125  # shells give the greater ones meanings of their own


def stopped_exit_code() -> int:
    """Return the exit code of a run that SIGTERM stopped before its end.

    It is 0, unless the environment names another: some schedulers take 0 for the end of the run.

    Raises:
      UserError: the environment names one that is none.
    """
    typed = os.environ.get("TPGDIFF_STOPPED_EXIT_CODE", "")
    if not typed:
        return 0
    if typed not in map(str, range(1, _MOST_CODE + 1)):
        raise UserError(
            f"TPGDIFF_STOPPED_EXIT_CODE={typed}: expected a whole number from 1 to {_MOST_CODE}; "
            "unset it for 0."
        )
    return int(typed)


@contextlib.contextmanager
def ending_on_ctrl_c() -> Iterator[None]:
    """Say what a Ctrl-C leaves behind, without a traceback; a second one ends the process at once.

    Training listens by itself while it runs: see `runs.preemption`.  Use once, in the main thread.
    """
    before = signal.signal(signal.SIGINT, _interrupt)
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)
    signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(ear,), daemon=True).start()
    try:
        yield
    except KeyboardInterrupt as error:
        kept = mode_flags.MODES[flags.program_typed(sys.argv)].kept
        done = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        _say(f"Stopped by Ctrl-C{done}. {kept}")
        leave_now(INTERRUPTED)  # all is closed; JAX would wait for what its devices compute
    signal.set_wakeup_fd(-1)
    mouth.close()
    signal.signal(signal.SIGINT, before)


def _interrupt(number, frame) -> None:
    raise KeyboardInterrupt


def _watch(ear: socket.socket) -> None:
    """End the process at the second Ctrl-C, whatever its main thread is busy with.

    Python runs handlers between its own instructions; a program that XLA compiles for minutes is
    one instruction.  The number of every signal comes through the socket at once.
    """
    count = 0
    while numbers := ear.recv(1):
        if numbers[0] != signal.SIGINT:
            continue
        count += 1
        if count == 1:
            _say("Ctrl-C: ends once the computation at hand is done; a second one ends at once.")
        else:
            _say("Ended at once by a second Ctrl-C.")
            os._exit(INTERRUPTED)


def _say(text: str) -> None:
    # In one piece: two threads may speak at once.
    sys.stderr.write(f"\n{text}\n")
    sys.stderr.flush()
