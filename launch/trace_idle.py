"""Tell how long each device was idle while a profiler trace was taken.

python -m tpgdiff_jax.main --config=... --workdir=RUN --config.profile_steps=20,40
python launch/trace_idle.py RUN
"""

import argparse
import collections
import dataclasses
import pathlib
import sys
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import tabulate

from tpgdiff_jax.reporting.errors import UserError

Interval = tuple[float, float]

# Lines of a device's plane that repeat, in larger units, what its operations' lines hold.
_SUMMARIES = ("Steps", "XLA Modules", "XLA TraceMe", "Framework Name Scope", "Framework Ops")


@dataclasses.dataclass(frozen=True)
class DeviceIdle:
    """What a trace says of one device, from the first run of the main program to its last.

    The main program is the one that worked longest: the training step.

    Attributes:
      device: its name; the trace of a CPU has the host's devices as "cpu:0", ...
      program: name of the main program.
      runs: how often it ran, wholly or partly, within the trace.
      seconds: from its first operation to its last.
      idle: share of this time in which no operation of any program was at work.
      idle_between: share of this time that lay between two runs with nothing at work; None where
        the trace does not tell runs apart.
    """

    device: str
    program: str
    runs: int
    seconds: float
    idle: float
    idle_between: float | None


def main(arguments: list[str] | None = None) -> int:
    """Print one row per device; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=pathlib.Path, help="a run's folder, or an .xplane.pb file")
    folder = parser.parse_args(arguments).trace
    try:
        found = device_idle(folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(newest_trace(folder))
    print(tabulate.tabulate([_row(device) for device in found], headers="keys"))
    return 0


def _row(device: DeviceIdle) -> dict[str, str]:
    row = dataclasses.asdict(device)
    row["seconds"] = f"{device.seconds:.4f}"
    row["idle"] = f"{device.idle:.2%}"
    between = device.idle_between
    row["idle_between"] = "not in this trace" if between is None else f"{between:.2%}"
    return row


@dataclasses.dataclass(frozen=True)
class _Operation:
    device: str
    program: str
    run: Any
    interval: Interval


def device_idle(folder: pathlib.Path) -> list[DeviceIdle]:
    """Read the newest trace below a folder and tell how long each device was idle.

    An accelerator has lines of its own in the trace.  On a CPU the operations are on the threads of
    XLA's executor, each with the number of its (virtual) device: time in which no thread works on
    one counts as idle, also if the machine was too busy to run a thread that was ready.  Virtual
    devices share the cores; only with one of them does idle mean that the CPU had nothing to do.

    Args:
      folder: workdir/profile, the workdir, or an .xplane.pb file.

    Returns:
      one entry per device.

    Raises:
      UserError: there is no trace, a damaged one, or none in which an operation ran.
    """
    path = newest_trace(folder)
    operations: dict[str, list[_Operation]] = collections.defaultdict(list)
    try:
        trace = jax.profiler.ProfileData.from_file(str(path))
    except RuntimeError as error:
        raise UserError(f"{path} is damaged or no profiler trace; take another one.") from error
    for operation in _operations(trace):
        operations[operation.device].append(operation)
    if not operations:
        raise UserError(f"{path} holds no operation of a device; trace at least one whole step.")
    return [_idle(device, found) for device, found in sorted(operations.items())]


def newest_trace(folder: pathlib.Path) -> pathlib.Path:
    """Return the newest .xplane.pb below a folder; raises UserError if there is none."""
    folder = pathlib.Path(folder)
    if folder.is_file():
        return folder
    found = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(
            f"{folder} holds no profiler trace (*.xplane.pb); train with "
            "--config.profile_steps=a,b."
        )
    return found[-1]


def _operations(trace: Any) -> Iterable[_Operation]:
    for plane in trace.planes:
        is_device = plane.name.startswith("/device:")
        for line in plane.lines:
            if is_device and line.name in _SUMMARIES:
                continue
            for event in line.events:
                stats = dict(event.stats)
                # On hosts the rest are waits, calls and the like.
                if "hlo_op" not in stats and not (is_device and "hlo_module" in stats):
                    continue
                device = plane.name.removeprefix("/device:")
                if not is_device:
                    device = f"cpu:{stats.get('device_ordinal', 0)}"
                interval = (event.start_ns * 1e-9, (event.start_ns + event.duration_ns) * 1e-9)
                program = str(stats.get("hlo_module", "unknown"))
                yield _Operation(device, program, stats.get("run_id"), interval)


def _idle(device: str, operations: list[_Operation]) -> DeviceIdle:
    worked = collections.Counter()
    for operation in operations:
        worked[operation.program] += operation.interval[1] - operation.interval[0]
    program = worked.most_common(1)[0][0]
    main = [operation for operation in operations if operation.program == program]
    first = min(operation.interval[0] for operation in main)
    last = max(operation.interval[1] for operation in main)
    seconds = last - first
    busy = merge(operation.interval for operation in operations)
    runs: dict[Any, list[Interval]] = collections.defaultdict(list)
    for operation in main:
        runs[operation.run].append(operation.interval)
    between = None
    if None not in runs:
        spans = [(min(i[0] for i in run), max(i[1] for i in run)) for run in runs.values()]
        between = 1 - covered(merge([*spans, *busy]), first, last) / seconds
    idle = 1 - covered(busy, first, last) / seconds
    return DeviceIdle(device, program, len(runs), seconds, idle, between)


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of intervals as ones that do not touch, in their order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def covered(merged: Iterable[Interval], first: float, last: float) -> float:
    """Return how much of [first, last] lies in intervals that do not touch."""
    ends = np.array(list(merged), np.float64).reshape(-1, 2).clip(first, last)
    return float((ends[:, 1] - ends[:, 0]).sum())


if __name__ == "__main__":
    sys.exit(main())
