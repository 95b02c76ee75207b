"""One line per image: written as a job goes, read again when it goes on.

Every process appends to a file of its own.  A line cut off by a kill, or of another kind, is
ignored, and its image made again; so is a line of files that have changed since.  Where an image
has several lines, the last of the best kind counts: with a picture, without one, an error; of one
kind those that tell most, since a package for a score may have been missing at first.
"""

import math
import pathlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from tpgdiff_jax.reporting import json_lines
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.locks import held

Row = dict[str, Any]
Key = tuple[str, str, str]
Stamp = dict[str, list[int]]  # side of an image -> [bytes, nanoseconds of its last change]
_DIGITS = 6  # of a score in a file: more than float32 holds of a PSNR


def key_of(row: Mapping[str, Any]) -> Key:
    """Return what tells a line from others: (variant, set, image)."""
    return row["variant"], row["set"], row["image"]


def is_kept(row: Mapping[str, Any]) -> bool:
    """Tell whether an image's restored picture was kept when its line was written."""
    return row.get("kept", True)


def number(value: float) -> float | str:
    """Round a score for a file; equal images have an infinite PSNR, which JSON writes as text."""
    return round(float(value), _DIGITS) if math.isfinite(value) else str(float(value))


def locked(folder: pathlib.Path, process: int) -> AbstractContextManager[None]:
    """Keep other jobs from one process's lines; the lock ends with the block or the process.

    Args:
      folder: of the lines of all processes; made if missing.
      process: number of this process.

    Raises:
      UserError: another job that is running writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refused = UserError(
        f"Another job that is running writes to {folder.parent}; wait for its end, or choose "
        "another --output."
    )
    return held(folder / f".process_{process}.lock", folder.parent, refused)


def lines_of(folder: pathlib.Path, process: int) -> pathlib.Path:
    """Return the file of one process's lines in the folder of all."""
    return folder / f"process_{process}.jsonl"


def read_rows(folder: pathlib.Path, stamps: Mapping[Key, Stamp] | None = None) -> dict[Key, Row]:
    """Read the lines of all processes, sorted by variant, set and image.

    Args:
      folder: of the lines.
      stamps: of the files as they are now; lines of other files, or of other images, are left out.
    """
    rows: dict[Key, Row] = {}
    for path in sorted(folder.glob("process_*.jsonl")):
        for row in json_lines.read(path):
            key = tuple(row.get(name) for name in ("variant", "set", "image"))
            if not all(isinstance(part, str) for part in key):  # a line of another kind
                continue
            if stamps is not None and (key not in stamps or row.get("files") != stamps[key]):
                continue
            if key not in rows or _worth(row) >= _worth(rows[key]):
                rows[key] = row
    return dict(sorted(rows.items()))


def _worth(row: Mapping[str, Any]) -> tuple[bool, bool, int]:
    return "error" not in row, is_kept(row), len(row)
