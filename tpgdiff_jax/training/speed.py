"""Where a training step's time goes, and how much of the hardware it uses."""

import collections
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax

from tpgdiff_jax.native.library import CALLS as ONEDNN_CALLS
from tpgdiff_jax.reporting.errors import UserError

# Peak of dense bfloat16 matrix products per JAX device, TFLOP/s, by the start of `device_kind`.
# The first that fits counts.  TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, per chip.  NVIDIA:
# data sheets of the A100, H100 and H200, without sparsity.
PEAK_TFLOPS = (
    ("TPU v4", 275.0),
    ("TPU v5 lite", 197.0),
    ("TPU v5e", 197.0),
    ("TPU v5", 459.0),
    ("TPU v6 lite", 918.0),
    ("TPU v6e", 918.0),
    ("NVIDIA A100", 312.0),
    ("NVIDIA H100 PCIe", 756.0),
    ("NVIDIA H100 NVL", 835.0),
    ("NVIDIA H100", 989.0),
    ("NVIDIA H200 NVL", 835.0),
    ("NVIDIA H200", 989.0),
    ("NVIDIA L40S", 362.0),
    ("NVIDIA GeForce RTX 4090", 165.0),
)


# Steps that may be queued: enough that devices never wait for the host between two.
_MOST_QUEUED = 2


class Lead:
    """Let the host queue steps ahead of the devices, but only a few.

    JAX itself would queue some thirty.  A run that is asked to end must finish them all before it
    can save, which may take longer than the grace that a machine gives; and their batches take
    memory on the devices.
    """

    def __init__(self, most: int = _MOST_QUEUED):
        self._most = most
        self._results: collections.deque[Any] = collections.deque()

    def queued(self, result: Any) -> None:
        """Remember a result of the step just queued; wait where more than `most` are under way."""
        self._results.append(result)
        if len(self._results) > self._most:
            jax.block_until_ready(self._results.popleft())


class StepClock:
    """Split the wall time of a training loop, as its host thread sees it.

    JAX runs asynchronously: a step's call returns when the step is queued, and the host meets the
    devices again where it waits for a result (at reports, and see `Lead`).  So the clock does
    not time single steps.  It takes the wall time between two reports, right after the results of
    all steps before have been read, and divides it by the steps: `step_seconds` is exact.  The
    split is of the host's time:

    * `data_wait_seconds`: blocked on the next batch.  The devices may well have worked on queued
      steps meanwhile, so it is the most that data can have cost.
    * `device_wait_seconds`: blocked on the devices: queueing steps and reading results.  Where this
      is about 0, the devices finish before the host asks: they wait for the host, and
      `data_wait_seconds` is what data really cost.
    * `other_seconds`: the rest, such as copying a state to be saved and writing reports.
    """

    def __init__(
        self,
        *,
        flops_per_step: float | None = None,
        seconds: Callable[[], float] = time.perf_counter,
    ):
        """Start the clock.

        Args:
          flops_per_step: of one device, from `step_flops`; None where unknown.
          seconds: tells the time.
        """
        self.flops_per_step = flops_per_step
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Forget what was measured; call it when the devices have nothing queued."""
        self._started = self._seconds()
        self._spent = dict.fromkeys(("data", "device", "left out"), 0.0)

    def waiting_for_data(self) -> AbstractContextManager[None]:
        """Count the time inside as waiting for the next batch."""
        return self._spending("data")

    def waiting_for_devices(self) -> AbstractContextManager[None]:
        """Count the time inside as waiting for devices: the step's call, reading its results."""
        return self._spending("device")

    def left_out(self) -> AbstractContextManager[None]:
        """Leave out what is no training, such as validation.

        Enter it only when all queued steps are done (after reading their results), else they would
        run in time that is not counted.
        """
        return self._spending("left out")

    @contextlib.contextmanager
    def _spending(self, what: str) -> Iterator[None]:
        started = self._seconds()
        try:
            yield
        finally:
            self._spent[what] += self._seconds() - started

    def summary(self, steps: int, images: int) -> dict[str, float]:
        """Return the means since the last summary, and start anew.

        Call it right after reading the results of the last step.

        Args:
          steps: taken since the last summary, at least 1.
          images: trained on in these steps, by all processes together.

        Returns:
          seconds per step: step_seconds = data_wait_seconds + device_wait_seconds + other_seconds;
          images_per_second; memory_gib (see `memory_gib`); with `flops_per_step` also
          tflops_per_second of one device, and flop_utilisation, the share of its bfloat16 peak, if
          that is known.
        """
        if steps < 1:
            raise UserError(f"summary of {steps} steps: at least 1 must have been taken.")
        data, device, left_out = self._spent.values()
        total = max(self._seconds() - self._started - left_out, 1e-9)
        step_seconds = total / steps
        values = {
            "step_seconds": step_seconds,
            "data_wait_seconds": data / steps,
            "device_wait_seconds": device / steps,
            "other_seconds": max(total - data - device, 0.0) / steps,
            "images_per_second": images / total,
            "memory_gib": memory_gib(),
        }
        if self.flops_per_step:
            values["tflops_per_second"] = self.flops_per_step / step_seconds / 1e12
            peak = peak_tflops(jax.local_devices()[0].device_kind)
            if peak is not None:
                values["flop_utilisation"] = values["tflops_per_second"] / peak
        self.restart()
        return values


def step_flops(compiled: Any, *, loop_turns: int = 1) -> float | None:
    """Return XLA's estimate of the floating-point operations of a compiled step, on one device.

    It counts what the optimised program computes, recomputation (rematerialisation) included, and
    counts the body of a loop once.

    Args:
      compiled: `jax.jit(step).lower(...).compile()`.
      loop_turns: where nearly all work is in one loop (gradient accumulation), how often it turns.

    Returns:
      operations, or None where the backend gives no figure, or oneDNN computes what XLA cannot see.
    """
    if jax.default_backend() == "cpu" and ONEDNN_CALLS in compiled.as_text():
        return None
    costs = compiled.cost_analysis()
    # Older JAX and some backends give one dict per program.
    costs = costs[0] if isinstance(costs, list | tuple) and costs else costs
    flops = costs.get("flops", 0.0) if isinstance(costs, dict) else 0.0
    return flops * loop_turns if flops > 0 else None


def peak_tflops(device_kind: str) -> float | None:
    """Return the bfloat16 peak of a kind of device in TFLOP/s, None where it is not known."""
    return next((peak for kind, peak in PEAK_TFLOPS if device_kind.startswith(kind)), None)


def memory_gib() -> float:
    """Return the most memory used so far, in GiB.

    That of the fullest device of this process, where the backend tells; else the peak resident set
    of this process (on a CPU, where arrays live there).
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if all("peak_bytes_in_use" in row for row in stats):
        return max(row["peak_bytes_in_use"] for row in stats) / 2**30
    try:
        import resource  # here, since Windows has none
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
