"""What a job leaves written about each result: one line of JSON, never half of one for long."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.reporting import json_text


class JobLog:
    """The lines of one process, appended to a file; a context manager.

    Nothing is held back in memory: closing writes nothing, so a disk that is full fails once, at
    the line that does not fit.
    """

    def __init__(self, path: pathlib.Path):
        """Open for appending; a line cut off by a full disk or a kill is ended first.

        Raises:
          OSError: the file cannot be written.
        """
        cut_off = _last_byte(path) not in (b"", b"\n")
        self._file = path.open("ab", buffering=0)
        if cut_off:
            self._file.write(b"\n")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a line.

        Raises:
          OSError: disk full, ...; a part of the line may be there.
        """
        line = (json_text.dumps(row) + "\n").encode()
        while line:
            line = line[self._file.write(line) :]

    def __enter__(self) -> "JobLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def made_otherwise(path: pathlib.Path, present: set[str], settings: Mapping[str, Any]) -> int:
    """Count results that are there already but that the log says were made with other settings.

    Args:
      path: of the log.
      present: names of these results.
      settings: what they would be made with now.
    """
    if not present or not path.is_file():
        return 0
    wanted = json.loads(json_text.dumps(settings))
    otherwise = {}
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off
            continue
        if isinstance(row, dict) and row.get("output") in present:
            otherwise[row["output"]] = any(row.get(key) != wanted[key] for key in wanted)
    return sum(otherwise.values())


def _last_byte(path: pathlib.Path) -> bytes:
    if not path.exists() or not path.stat().st_size:
        return b""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
