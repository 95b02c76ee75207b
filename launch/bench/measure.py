"""Time a compiled program, tell its memory, and the peak of the device it runs on."""

import concurrent.futures
import dataclasses
import functools
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.bench import flops
from tpgdiff_jax.training.speed import memory_gib


@dataclasses.dataclass
class Timing:
    """Seconds of the counted runs of one program.

    Attributes:
      seconds: of each run.
      compile_seconds: what compiling took; tracing not counted.
    """

    seconds: list[float]
    compile_seconds: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def row(self) -> dict[str, float]:
        """Return the columns of a table that tell it."""
        row = {"seconds": self.median, "least": min(self.seconds), "most": max(self.seconds)}
        return row | ({"compile_seconds": self.compile_seconds} if self.compile_seconds else {})


class Program:
    """A function compiled for some arguments, in a thread if asked; knows its work and memory.

    Attributes:
      flop: operations counted in the traced function, see `flops.counted`.
    """

    def __init__(
        self,
        function: Callable,
        args: Sequence[Any],
        *,
        donate: Sequence[int] = (),
        pool: concurrent.futures.Executor | None = None,
    ):
        """Trace the function, and compile it here or in the pool.

        Args:
          function: jittable.
          args: its arguments, arrays or their shapes.
          donate: which of them it may overwrite; it must return their successors first.
          pool: where it is compiled beside others; its `compile_seconds` then count their work too.
        """
        traced = jax.jit(function, donate_argnums=tuple(donate)).trace(*args)
        self.flop = flops.counted(traced.jaxpr)
        lowered = traced.lower()
        self._donate = len(donate)
        self._future = pool and pool.submit(_compile, lowered)
        self._made = None if pool else _compile(lowered)

    @property
    def compiled(self) -> Any:
        return self._result[0]

    @property
    def compile_seconds(self) -> float:
        return self._result[1]

    @property
    def _result(self) -> tuple[Any, float]:
        if self._made is None:
            self._made = self._future.result()
        return self._made

    def time(self, args: Sequence[Any], repeats: int) -> tuple[Timing, Any]:
        """Run once to warm up, then `repeats` times; return the timing and the last result."""
        args = list(args)
        result = self._run(args)
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            result = self._run(args)
            seconds.append(time.perf_counter() - started)
        return Timing(seconds, self.compile_seconds), result

    def _run(self, args: list[Any]) -> Any:
        result = jax.block_until_ready(self.compiled(*args))
        if self._donate:
            args[: self._donate] = result[: self._donate]
        return result

    def memory_row(self) -> dict[str, int]:
        """Return the columns of a table that tell memory, in bytes."""
        sizes = self.compiled.memory_analysis()
        row = {"peak_bytes": peak_bytes()}
        if sizes is not None:
            whole = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
            temporary = sizes.temp_size_in_bytes
            row["temporary_bytes"] = temporary
            row["program_bytes"] = whole + temporary - sizes.alias_size_in_bytes
        return row


def _compile(lowered: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    return lowered.compile(), time.perf_counter() - started


def in_turns(runners: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each runner's counted runs; the first turn of all warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(repeats + 1):
        for name, run in runners.items():
            started = time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def peak_bytes() -> int:
    """Return the most memory used so far, see `speed.memory_gib`."""
    return round(memory_gib() * 2**30)


def device_facts() -> dict[str, Any]:
    """Return what a figure must be read beside."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "machine": platform.machine(),
        "jax": jax.__version__,
        "precision": jax.config.jax_default_matmul_precision or "default",
    }


@functools.cache
def matrix_peak(dtype: str, side: int | None = None) -> float:
    """Measure how many operations per second a large matrix product reaches, the best of six runs.

    Args:
      dtype: `float32` or `bfloat16`; multiplied at the precision that is set.
      side: of the square matrices; 8192 by default, 2048 on a CPU.
    """
    side = side or (2048 if jax.default_backend() == "cpu" else 8192)
    turns = 1 if jax.default_backend() == "cpu" else 8
    rng = np.random.default_rng(0)
    kind = jnp.dtype(dtype)
    x, w = (jnp.asarray(rng.standard_normal((side, side), np.float32), kind) for _ in range(2))
    w = w * kind.type(side**-0.5)  # so that products keep their size

    def chain(x, w):
        return jax.lax.fori_loop(0, turns, lambda _, x: x @ w, x)

    timing, _ = Program(chain, (x, w)).time((x, w), 6)
    return turns * 2 * side**3 / min(timing.seconds)
