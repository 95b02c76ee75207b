"""Which steps of a run stay, and orbax's manager as this package needs it."""

import dataclasses
import errno
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import type_handlers

from tpgdiff_jax.runs.step_folder import DATA, METADATA, SCORES, STATE

# Beside the scores of a step: a number that stands for what was scored, and how.
TEST = "test"


class QuietManager(ocp.CheckpointManager):
    """Orbax's manager, which tells of errors and leaves what concerns preemption to `Preemption`.

    It would also ask about preemption from its background thread, with the number of the step it
    has just written.  JAX takes the last number asked about for where this process is, so that
    could set process 0 back, and make all agree on a step that process 0 has passed already.
    """

    # Called with the error of a write in the background, in its thread.
    tell: Callable[[Exception], None] | None = None

    def reached_preemption(self, step: int) -> bool:
        """Say no; orbax asks this of itself."""
        return False

    def _wait_for_checkpointers(self) -> None:
        # Of several processes orbax raises what failed only after a wait for all of them, and those
        # wait for this one: 20 minutes (orbax-checkpoint 0.12.8).
        try:
            super()._wait_for_checkpointers()
        except Exception as error:
            if self.tell is not None:
                self.tell(error)
            raise


class _Repetition(logging.Filter):
    """Drops what orbax logs of a failed write in its threads: the same error is raised here."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "asyncio":
            text = record.getMessage()
            return not ("never retrieved" in text and "orbax" in text)
        return record.exc_info is None or "orbax" not in record.pathname


_REPETITION = _Repetition()


def say_errors_once() -> None:
    """Leave out of the log what is raised, too; calling it again changes nothing."""
    for name in ("asyncio", "absl"):
        logging.getLogger(name).addFilter(_REPETITION)


def check_space(folder: epath.Path, state: Any) -> None:
    """Check that a state fits on the disk of a folder, as far as that can be told before.

    Where it does not, orbax starts hundreds of writes that fail one by one.

    Raises:
      OSError: it does not fit; says how much it needs.
    """
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"No space left on device: it needs {needed / 2**20:.1f} MiB, "
            f"{free / 2**20:.1f} MiB are free",
        )


# Smaller parts are not worth a program of their own, which orbax compiles to cut them out.
_MIN_PART_BYTES = 2**20


def item_handlers(
    several: ocp.options.MultiprocessingOptions,
) -> dict[str, ocp.CheckpointHandler]:
    """Return what writes each item of a step, in which processes.

    Of a state, devices that hold the same large array write a part of it each.  By itself orbax
    cuts every array, down to the smallest bias, and compiles a program for each shape and part: a
    first save on eight devices takes half a minute, nearly all for compiling.
    """
    alone = several.active_processes is not None
    arrays = type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_MIN_PART_BYTES)
    registry = type_handlers.create_type_handler_registry(
        (jax.Array, arrays),
        # NumPy arrays of a state gathered from several machines are copies already.
        (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=not alone)),
        *((kind, type_handlers.ScalarHandler()) for kind in (int, float, np.number)),
    )
    state = ocp.PyTreeCheckpointHandler(
        type_handler_registry=registry, multiprocessing_options=several
    )
    plain = ocp.JsonCheckpointHandler(multiprocessing_options=several)
    return {STATE: state} | dict.fromkeys((DATA, METADATA, SCORES), plain)


@dataclasses.dataclass(frozen=True)
class NewestAndBest(ocp.checkpoint_managers.PreservationPolicy):
    """Keep the newest steps and the best one.

    Attributes:
      keep: how many of the newest.
      scores: metrics by step; filled as steps are saved.
      best_by: the metric that decides on the best.
    """

    keep: int
    scores: dict[int, dict[str, float]]
    best_by: str

    def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
        """Return for each checkpoint whether it stays."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        stay = {*sorted(steps)[-self.keep :], best(steps, self.scores, self.best_by)}
        return [step in stay for step in steps]


def best(
    steps: Sequence[int], scores: Mapping[int, Mapping[str, float]], best_by: str
) -> int | None:
    """Return the step with the highest score by one metric, the newest of equals.

    Only steps that were scored like the newest of them are compared: `TEST` is the same.
    """
    scored = [step for step in steps if step in scores]
    test = scores[max(scored)].get(TEST) if scored else None
    alike = [step for step in scored if scores[step].get(TEST) == test]
    values = {step: scores[step].get(best_by, math.nan) for step in alike}
    values = {step: value for step, value in values.items() if not math.isnan(value)}
    return max(values, key=lambda step: (values[step], step), default=None)
