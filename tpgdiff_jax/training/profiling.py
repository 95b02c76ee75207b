"""A profiler trace of some training steps."""

import contextlib
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging

from tpgdiff_jax.reporting.errors import UserError


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

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[types.SimpleNamespace]:
        """Trace one step, loading its batch included; set `result` to arrays the step computes."""
        traced = types.SimpleNamespace(result=None)
        self._begin(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield traced
        self._end(step, traced.result)

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
