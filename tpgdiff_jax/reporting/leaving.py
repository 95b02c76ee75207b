"""End the process at once, whatever its threads and devices are busy with."""

import multiprocessing
import os
import sys
from typing import NoReturn


def leave_now(code: int) -> NoReturn:
    """End the process with its workers; nothing is waited for, no `finally` runs.

    Args:
      code: the exit code.
    """
    for child in multiprocessing.active_children():
        child.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
