"""What a job leaves written about each result: one line of JSON, never half of one for long."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.reporting import json_lines, json_text

LOG_NAME = "restored.jsonl"


def log_name(part: int | None) -> str:
    """Return the name of a job's log; parts of a job that share a folder have one each."""
    return LOG_NAME if part is None else f"restored_{part}.jsonl"


def made_otherwise(folder: pathlib.Path, present: set[str], settings: Mapping[str, Any]) -> int:
    """Count results that are there already but that the logs say were made with other settings.

    Args:
      folder: of the logs.
      present: names of these results.
      settings: what they would be made with now.
    """
    if not present:
        return 0
    wanted = json.loads(json_text.dumps(settings))
    paths = sorted(folder.glob("restored*.jsonl"))
    rows = [row for path in paths for row in json_lines.read(path) if row.get("output") in present]
    otherwise = {}
    for row in sorted(rows, key=lambda row: str(row.get("finished"))):  # the newest counts
        otherwise[row["output"]] = any(row.get(key) != wanted[key] for key in wanted)
    return sum(otherwise.values())
