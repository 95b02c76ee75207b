"""Files of JSON objects, one a line: only appended to, and read whatever has cut them off."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from tpgdiff_jax.reporting import json_text


class JsonLines:
    """Appends lines to a file; a context manager.

    Nothing is held back in memory: a line is with the operating system when `write` returns, and
    closing writes nothing, so a disk that is full fails once, at the line that does not fit.  Each
    line is one call, so the lines of several processes of a machine do not mix.
    """

    def __init__(self, path: pathlib.Path):
        """Open for appending; a line cut off by a full disk or a kill is ended first.

        Args:
          path: of the file; missing folders are made.

        Raises:
          OSError: the file cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = _last_byte(path) not in (b"", b"\n")
        self._file = path.open("ab", buffering=0)
        if cut_off:
            self._file.write(b"\n")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
          OSError: disk full, ...; a part of the line may be there.
        """
        line = as_line(row).encode()
        while line:
            line = line[self._file.write(line) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Append one line to a file that is not kept open; see `JsonLines`."""
    with JsonLines(path) as lines:
        lines.write(row)


def read(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file; what is cut off or no JSON object is left out.

    Args:
      path: of the file; one that does not exist has no rows.
    """
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:  # it may have a million lines
            for line in file:
                row = parsed(line)
                if row is not None:
                    yield row


def parsed(line: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line, or None if it holds none."""
    try:
        row = json_text.loads(line)
    except ValueError:  # cut off
        return None
    return row if isinstance(row, dict) else None


def as_line(row: Mapping[str, Any]) -> str:
    """Return a row as it stands in a file."""
    return json_text.dumps(row) + "\n"


def _last_byte(path: pathlib.Path) -> bytes:
    if not path.exists() or not path.stat().st_size:
        return b""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
