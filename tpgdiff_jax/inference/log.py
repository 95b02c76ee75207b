"""What a job leaves written about each result: one line of JSON, never half of one for long."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from tpgdiff_jax.reporting import json_lines
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.stores.places import shown
from tpgdiff_jax.stores.urls import named

LOG_NAME = "restored.jsonl"


def log_name(part: int | None) -> str:
    """Return the name of a job's log; parts of a job that share a folder have one each."""
    return LOG_NAME if part is None else f"restored_{part}.jsonl"


def write_failures(log: pathlib.Path, reasons: Mapping[str, str]) -> None:
    """Write what a job could not restore beside its log, `not_restored.jsonl`: {"input", "reason"}.

    Args:
      log: of the job, whose earlier list is replaced; where all went well the new one is empty.
      reasons: file -> why.
    """
    rows = ({"input": shown(file), "reason": reason} for file, reason in reasons.items())
    write_text(log.with_name(f"not_{log.name}"), "".join(map(json_lines.as_line, rows)))


def name_within(folder: pathlib.Path, result: pathlib.Path) -> str:
    """Return what a log calls a result: its place in the folder, however that was typed."""
    place = pathlib.Path(os.path.relpath(result, folder))
    return named(result) if place.parts[:1] == ("..",) else place.as_posix()


def newest_lines(
    folder: pathlib.Path, present: Mapping[str, str], kept: Callable[[Mapping[str, Any]], Any]
) -> dict[str, Any]:
    """Return what the logs say of results, by their names: of each the newest line.

    Args:
      folder: of the logs.
      present: how a line may call these results -> their name; lines of older versions have paths
        as they were typed.
      kept: what is kept of a line; whole ones of a million results would fill the memory.
    """
    newest: dict[str, tuple[str, Any]] = {}
    for path in sorted(folder.glob("restored*.jsonl")) if present else ():
        for row in json_lines.read(path):
            name, finished = present.get(str(row.get("name", row.get("output")))), _finished(row)
            if name and (name not in newest or newest[name][0] <= finished):
                newest[name] = finished, kept(row)
    return {name: line for name, (_, line) in newest.items()}


def _finished(row: Mapping[str, Any]) -> str:
    return str(row.get("finished"))
