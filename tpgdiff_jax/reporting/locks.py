"""One program at a time: locks that end with the program, however it ends."""

import contextlib
import errno
import pathlib
from collections.abc import Iterator

import filelock
from absl import logging

# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class HeldElsewhereError(Exception):
    """Another program, or another part of this one, holds a lock."""


def take(
    path: pathlib.Path, protected: pathlib.Path, *, wait: bool = False
) -> filelock.BaseFileLock | None:
    """Take a lock; it is held until it is released or this process ends.

    Args:
      path: of the lock's file, which stays; its folder must exist.
      protected: what the lock is for, as a warning names it.
      wait: until it is free.

    Returns:
      the lock, or None, with a warning, on a file system that has no locks.

    Raises:
      HeldElsewhereError: another one holds it.
      OSError: the file cannot be opened.
    """
    lock = filelock.FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=wait)
    except filelock.Timeout as error:
        raise HeldElsewhereError(str(path)) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        text = "%s cannot be locked (%s): make sure that no other program writes there."
        logging.warning(text, protected, error.strerror)
        return None
    return lock


@contextlib.contextmanager
def held(path: pathlib.Path, protected: pathlib.Path, refused: Exception) -> Iterator[None]:
    """Hold a lock for a block.

    Args:
      path, protected: as for `take`.
      refused: what is raised where another one holds it.
    """
    try:
        lock = take(path, protected)
    except HeldElsewhereError as error:
        raise refused from error
    try:
        yield
    finally:
        if lock is not None:
            lock.release()
