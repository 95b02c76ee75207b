"""A profiler trace of some training steps, and what it says of the devices' idle time."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from absl import logging

from tpgdiff_jax.reporting.errors import UserError

Interval = tuple[float, float]

# Lines of a device's plane that repeat, in larger units, what its operations' lines hold.
_SUMMARIES = ("Steps", "XLA Modules", "XLA TraceMe", "Framework Name Scope", "Framework Ops")


class TraceWindow:
    """Write a JAX profiler trace of the steps `first`..`last` into workdir/profile.

    The first process alone writes.  Every step is marked for TensorBoard's profile plugin and
    Perfetto.  Use as a context manager: leaving it ends a trace that is still being taken.

        with TraceWindow(workdir, 10, 14) as window:
            for step in ...:
                with window.step(step) as traced:
                    state, metrics = step_fn(state, batch)
                    traced.result = metrics
    """

    def __init__(self, workdir: pathlib.Path, first: int | None, last: int | None):
        """Plan the trace.

        Args:
          workdir: the run's folder.
          first, last: numbers of the steps, both included; None for no trace.

        Raises:
          UserError: they are no range of steps.
        """
        if (first is None) != (last is None) or (first is not None and not 1 <= first <= last):
            raise UserError(f"config.profile_steps={first},{last}: expected a,b with 1 <= a <= b.")
        self.folder = pathlib.Path(workdir) / "profile"
        self._first, self._last = first, last
        self._is_wanted = first is not None and jax.process_index() == 0
        self._is_running = False

    def __enter__(self) -> "TraceWindow":
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def step(self, step: int) -> "_TracedStep":
        """Return a context for one step, loading its batch included."""
        return _TracedStep(self, step)

    def _begin(self, step: int) -> None:
        # Not `==`: a resumed run may start inside the window.
        if self._is_wanted and not self._is_running and self._first <= step <= self._last:
            options = jax.profiler.ProfileOptions()
            # Every Python call would be an event: the trace huge, the host slow.
            options.python_tracer_level = 0
            jax.profiler.start_trace(self.folder, profiler_options=options)
            self._is_running = True

    def _end(self, step: int, result: Any) -> None:
        if self._is_wanted and step == self._first - 1:
            jax.block_until_ready(result)  # steps still queued are none of the trace's
        if self._is_running and step >= self._last:
            # The devices are behind: what the last steps queued belongs into the trace.
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._is_running:
            self._is_running = self._is_wanted = False
            jax.profiler.stop_trace()
            logging.info(
                "Profiler trace written to %s; read it with TensorBoard's profile plugin, or: "
                "python launch/trace_idle.py %s",
                self.folder,
                self.folder,
            )


class _TracedStep:
    """One step inside a `TraceWindow`; set `result` to arrays the step computes."""

    def __init__(self, window: TraceWindow, step: int):
        self.result: Any = None
        self._window, self._step = window, step
        self._mark = None

    def __enter__(self) -> "_TracedStep":
        self._window._begin(self._step)
        self._mark = jax.profiler.StepTraceAnnotation("train", step_num=self._step)
        self._mark.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._mark.__exit__(*error)
        if error[0] is None:
            self._window._end(self._step, self.result)


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
      UserError: there is no trace, or none in which an operation ran.
    """
    path = newest_trace(folder)
    operations: dict[str, list[_Operation]] = collections.defaultdict(list)
    for operation in _operations(jax.profiler.ProfileData.from_file(str(path))):
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
