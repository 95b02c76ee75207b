"""Bound how many compiled programs a process keeps, whatever sizes of pictures come.

On a CPU a size of the bundled weights takes about 740 of the 65530 memory maps that Linux grants a
process, and 40 MiB: without a bound the eighty-fifth size or so ends the process.
"""

import threading
from collections.abc import Hashable
from typing import Any

MOST = 24  # shapes


class KeptPrograms:
    """The programs that some jitted functions hold together, of a bounded number of shapes.

    JAX forgets the programs of a function all at once.  What comes back is read from the disk, see
    `compile_cache`; jobs need no shape again, since pictures of one size follow each other.

    Attributes:
      made: shapes that programs were made for so far; one that came back counts again.
    """

    def __init__(self, *functions: Any, most: int = MOST):
        """Watch over functions.

        Args:
          functions: jitted ones.
          most: shapes that they hold programs of; a few more while threads call them at once.
        """
        self._functions, self._most = functions, most
        self._lock = threading.Lock()
        self._shapes: set[Hashable] = set()
        self.made = 0

    def make_room(self, shape: Hashable) -> None:
        """Prepare for calls of a shape: if there are too many, free the programs of all others.

        Programs that run in other threads stay until they are done.

        Args:
          shape: all that decides which programs the functions need.
        """
        with self._lock:
            if shape in self._shapes:
                return
            if len(self._shapes) >= self._most:
                self._free()
            self._shapes.add(shape)
            self.made += 1

    def clear(self) -> None:
        """Free all programs."""
        with self._lock:
            self._free()

    def _free(self) -> None:
        for function in self._functions:
            function.clear_cache()
        self._shapes.clear()
