"""What a job leaves written about each result: one line of JSON, never half of one for long."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.reporting import json_lines, json_text


def made_otherwise(path: pathlib.Path, present: set[str], settings: Mapping[str, Any]) -> int:
    """Count results that are there already but that the log says were made with other settings.

    Args:
      path: of the log.
      present: names of these results.
      settings: what they would be made with now.
    """
    if not present:
        return 0
    wanted = json.loads(json_text.dumps(settings))
    otherwise = {}
    for row in json_lines.read(path):
        if row.get("output") in present:
            otherwise[row["output"]] = any(row.get(key) != wanted[key] for key in wanted)
    return sum(otherwise.values())
