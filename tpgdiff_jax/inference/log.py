"""What a job leaves written about each result: one line of JSON, never half of one for long."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.reporting import json_lines
from tpgdiff_jax.stores.urls import named

LOG_NAME = "restored.jsonl"


def log_name(part: int | None) -> str:
    """Return the name of a job's log; parts of a job that share a folder have one each."""
    return LOG_NAME if part is None else f"restored_{part}.jsonl"


def name_within(folder: pathlib.Path, result: pathlib.Path) -> str:
    """Return what a log calls a result: its place in the folder, however that was typed."""
    place = pathlib.Path(os.path.relpath(result, folder))
    return named(result) if place.parts[:1] == ("..",) else place.as_posix()


def newest_lines(folder: pathlib.Path, present: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return what the logs say of results, by their names: of each the newest line.

    Args:
      folder: of the logs.
      present: how a line may call these results -> their name; lines of older versions have paths
        as they were typed.
    """
    if not present:
        return {}
    paths = sorted(folder.glob("restored*.jsonl"))
    rows = [row for path in paths for row in json_lines.read(path)]
    newest = {}
    for row in sorted(rows, key=lambda row: str(row.get("finished"))):
        if name := present.get(str(row.get("name", row.get("output")))):
            newest[name] = row
    return newest
