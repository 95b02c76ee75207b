"""One line per image: written as a job goes, read again when it goes on.

Every process appends to a file of its own.  A line cut off by a kill, or of another kind, is
ignored, and its image made again; so is a line of files that have changed since.  Where an image
has several lines, the last that is no error counts.
"""

import contextlib
import errno
import fcntl
import json
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from absl import logging

from tpgdiff_jax.reporting.errors import UserError

Row = dict[str, Any]
Key = tuple[str, str, str]
Stamp = dict[str, list[int]]  # side of an image -> [bytes, nanoseconds of its last change]
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_DIGITS = 6  # of a score in a file: more than float32 holds of a PSNR


def key_of(row: Mapping[str, Any]) -> Key:
    """Return what tells a line from others: (variant, set, image)."""
    return row["variant"], row["set"], row["image"]


def number(value: float) -> float | str:
    """Round a score for a file; equal images have an infinite PSNR, which JSON writes as text."""
    return round(float(value), _DIGITS) if math.isfinite(value) else str(float(value))


@contextlib.contextmanager
def locked(folder: pathlib.Path, process: int) -> Iterator[None]:
    """Keep other jobs from one process's lines; the lock ends with the block or the process.

    Args:
      folder: of the lines of all processes; made if missing.
      process: number of this process.

    Raises:
      UserError: another job that is running writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".process_{process}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES):
                raise UserError(
                    f"Another job that is running writes to {folder.parent}; wait for its end, or "
                    "choose another --output."
                ) from error
            if error.errno not in _NO_LOCKS:
                raise
            logging.warning(
                "%s cannot be locked (%s): make sure that no other job writes there.",
                folder.parent,
                error.strerror,
            )
        yield


class RowLog:
    """The lines of one process."""

    def __init__(self, folder: pathlib.Path, process: int):
        """Open for appending.

        Args:
          folder: of the lines of all processes; made if missing.
          process: number of this process.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"process_{process}.jsonl"
        cut_off = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file = path.open("a")
        if cut_off:
            self._file.write("\n")

    def write(self, rows: Iterable[Row]) -> None:
        """Append lines and hand them to the operating system at once."""
        for row in rows:
            self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_rows(folder: pathlib.Path, stamps: Mapping[Key, Stamp] | None = None) -> dict[Key, Row]:
    """Read the lines of all processes, sorted by variant, set and image.

    Args:
      folder: of the lines.
      stamps: of the files as they are now; lines of other files, or of other images, are left out.
    """
    rows: dict[Key, Row] = {}
    for path in sorted(folder.glob("process_*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
                key = key_of(row)
            except (ValueError, KeyError, TypeError):  # cut off, or a line of another kind
                continue
            if not all(isinstance(part, str) for part in key):
                continue
            if stamps is not None and (key not in stamps or row.get("files") != stamps[key]):
                continue
            if "error" not in row or key not in rows:
                rows[key] = row
    return dict(sorted(rows.items()))
