"""Show what was planned: one table of all programs, their messages, and what moves most bytes."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import tabulate

from tpgdiff_jax.planning.chips import CHIPS, GIB
from tpgdiff_jax.planning.record import state_bytes
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.reporting.json_text import dumps

_MOST_MOVERS = 40
_HEADERS = (
    *("topology", "what", "mesh", "batch", "GiB: state", "temp", "peak", "of", "fits"),
    *("TFLOP", "GB", "kernels", "sent GB", "arithmetic", "memory", "links ms", "bound by"),
    *("of peak", "images/s", "hours", "chip-hours", "compiled s"),
)


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each program: a chip's memory, work and traffic, then the pod's pace."""
    rows = [_row(record) for record in records]
    return _shown(rows, _HEADERS)


def _row(record: Mapping[str, Any]) -> list[str]:
    first = [
        record["topology"],
        f"{record['what']} {record['change']}".strip(),
        "x".join(map(str, record["mesh"].values())),
        str(record["images"]),
        _gib(state_bytes(record)),
        _gib(record.get("temporary_bytes")),
        _gib(record["peak_bytes"]),
        _gib(record["memory"]),
        {True: "yes", False: "NO", None: "not known"}[record["fits"]],
    ]
    if "flops" not in record:
        return first + [""] * (len(_HEADERS) - len(first) - 1) + [_seconds(record)]
    sent = sum(message["sent"] for message in record["messages"])
    times = [record[f"{name}_seconds"] * 1e3 for name in ("arithmetic", "memory", "links")]
    return [
        *first,
        f"{record['flops'] / 1e12:.2f}",
        f"{record['bytes'] / 1e9:.1f}",
        f"{record['operations']:,}" if "operations" in record else "",
        f"{sent / 1e9:.2f}",
        *(f"{milliseconds:.1f}" for milliseconds in times),
        record["limit"],
        f"{record['share_of_peak']:.0%}",
        f"{record['images_per_second']:,.0f}",
        f"{record['hours']:.1f}" if "hours" in record else "",
        f"{record['chip_hours']:,.0f}" if "chip_hours" in record else "",
        _seconds(record),
    ]


def _shown(rows: Sequence[Sequence[str]], headers: Sequence[str]) -> str:
    return tabulate.tabulate(rows, headers, tablefmt="simple", disable_numparse=True)


def _gib(number: float | None) -> str:
    return "" if number is None else f"{number / GIB:.2f}"


def _seconds(record: Mapping[str, Any]) -> str:
    seconds = record.get("compile_seconds")
    return "estimated" if seconds is None else f"{seconds:.0f}"


def message_table(record: Mapping[str, Any]) -> str:
    """Return the messages of a program: kind, axis of the mesh, number, bytes of a chip."""
    rows = [
        [
            message["kind"],
            message["axis"],
            str(message["count"]),
            f"{message['bytes'] / 1e6:.2f}",
            f"{message['sent'] / 1e6:.2f}",
            f"{message['largest'] / 1e6:.3f}",
            ", ".join(message["sources"][:2]),
        ]
        for message in record["messages"]
    ]
    headers = ["message", "axis", "count", "MB", "sent MB", "largest MB", "from"]
    return _shown(rows, headers)


def mover_table(record: Mapping[str, Any]) -> str:
    """Return what moves the most bytes between a chip and its memory, layer by layer."""
    total = max(record["bytes"], 1)
    rows = [
        [
            mover["layer"],
            mover["kind"],
            str(mover["count"]),
            f"{mover['bytes'] / 1e9:.2f}",
            f"{mover['bytes'] / total:.1%}",
            f"{mover['flops'] / 1e9:.1f}",
        ]
        for mover in record["movers"][:_MOST_MOVERS]
    ]
    headers = ["layer", "operation", "count", "GB", "share", "GFLOP"]
    return _shown(rows, headers)


def write(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write all records as JSON, with the table of chips they rest on."""
    chips = [dataclasses.asdict(chip) for chip in CHIPS]
    write_text(path, dumps({"programs": list(records), "chips": chips}, indent=1) + "\n")
