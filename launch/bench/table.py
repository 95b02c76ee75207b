"""Print measurements as a table, and write them as JSON."""

import datetime
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import tabulate

from launch.bench import measure
from tpgdiff_jax.reporting.files import replacing

# Columns with a form of their own: name of the key -> (heading, form, divisor).
_COLUMNS = {
    "seconds": ("median s", "{:.4g}", 1),
    "compile_seconds": ("compile s", "{:.1f}", 1),
    "images_per_second": ("images/s", "{:.3g}", 1),
    "peak_bytes": ("peak GiB", "{:.2f}", 2**30),
    "program_bytes": ("program GiB", "{:.2f}", 2**30),
    "resident_bytes": ("resident GiB", "{:.3f}", 2**30),
    "flop_program": ("XLA GFLOP", "{:.5g}", 1e9),
    "flop_counted": ("GFLOP", "{:.5g}", 1e9),
    "flop_closed_form": ("closed form", "{:.5g}", 1e9),
    "matrix_peak": ("peak TFLOP/s", "{:.3g}", 1e12),
    "share_of_peak": ("share", "{:.1%}", 1),
}
_JSON_ONLY = ("least", "most", "temporary_bytes", "attention", "custom_calls")


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a table; kinds of rows with other columns follow each other."""
    tables, kinds = [], []
    for row in rows:
        if not kinds or set(row) != set(kinds[-1][0]):
            kinds.append([])
        kinds[-1].append(row)
    for kind in kinds:
        shown = [_shown(row) for row in kind]
        tables.append(tabulate.tabulate(shown, headers="keys", disable_numparse=True))
    for row in rows:
        if row.get("attention"):
            tables.append(f"attention of {row['what']}: {row['attention']}")
    return "\n\n".join(tables)


def _shown(row: dict[str, Any]) -> dict[str, str]:
    shown = {}
    for key, value in row.items():
        if key == "most":
            shown["min - max"] = f"{row['least']:.4g} - {value:.4g}"
        if key in _JSON_ONLY:
            continue
        heading, form, divisor = _COLUMNS.get(key, (key.replace("_", " "), "{}", None))
        if value is None:
            shown[heading] = "-"
        elif divisor is None:
            shown[heading] = f"{value:.4g}" if isinstance(value, float) else str(value)
        else:
            shown[heading] = form.format(value / divisor)
    return shown


def header() -> str:
    """Return the line that says where and when was measured."""
    facts = measure.device_facts()
    return (
        f"{datetime.date.today()}, jax {facts['jax']}, {facts['devices']} x {facts['device']} "
        f"({facts['platform']}), {facts['machine']}, matrix precision {facts['precision']}"
    )


def write(path: str, what: str, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON, with the device and the command that made them.

    Args:
      path: of the file.
      what: was measured.
      rows: the table.
    """
    report = {
        "what": what,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": ["python", "launch/bench", *sys.argv[1:]],
        **measure.device_facts(),
        "rows": list(rows),
    }
    with replacing(pathlib.Path(path)) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n")
