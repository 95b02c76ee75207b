"""Say in a sentence which process is lost, where C++ would only abort with a dump of its stack.

Process 0 holds the service of `jax.distributed`.  Once it is gone, JAX (0.10.2) aborts in C++; so
may gloo when another process is gone, since messages that follow do not fit together.  Neither
Python's exceptions nor its signal handlers are asked then.  So the C library is given a handler of
SIGABRT that looks for a lost process first, and leaves all other aborts as they were.
"""

import ctypes
import os
import signal
import socket
from collections.abc import Callable

from tpgdiff_jax.reporting.leaving import leave_now

_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)
_PATIENCE = 5  # seconds for process 0's host to answer
_kept: list[object] = []  # what the C library points to must stay


def speak_before_aborts(
    address: str,
    is_silent: Callable[[], bool],
    sentence: str,
    code: int,
    wait_for_others: Callable[[], object],
    is_over: Callable[[], bool],
) -> None:
    """Before an abort, print a sentence and leave if process 0 does not answer any more.

    Args:
      address: HOST:PORT of its service.
      is_silent: tells whether it has not answered for long; the host of a process that stands
        still takes up connections in its place.
      sentence: what is printed.
      code: the exit code then.
      wait_for_others: called if it answers: may find that another process is lost, and leave.
      is_over: tells whether this process works alone by now: an abort is then its own.
    """
    if os.name != "posix":
        return
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    before: list[int | None] = []

    def aborted(number: int) -> None:
        if not is_over():
            if is_silent() or not _answers(address):
                os.write(2, f"\n{sentence}\n".encode(errors="backslashreplace"))
                leave_now(code)
            wait_for_others()
        if before[0]:  # of faulthandler, which prints what the threads did; 0 is the default
            _Handler(before[0])(number)

    handler = _Handler(aborted)
    _kept.append(handler)
    before.append(libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p)))


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True
