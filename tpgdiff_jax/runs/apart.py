"""Steps of a run whose processes share no folder: process 0 writes for all.

The others read steps from copies of their machines (see `on_store.training_in`), as long as the run
starts, and write none.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from tpgdiff_jax.distributed import machines
from tpgdiff_jax.reporting.errors import RunStoppedError, UserError
from tpgdiff_jax.stores.places import is_copy
from tpgdiff_jax.stores.sending import STEP_MARK

_COMPARED = 64  # newest steps; far more than are kept
# Of orbax: it would wait for the other processes in every step.
ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


def are_apart(folder: epath.Path) -> bool:
    """Tell whether the processes share no folder; all of them must call.

    Args:
      folder: what each of them calls the folder of the steps.

    Raises:
      UserError: they share none, and it is no copy of one in a store.
    """
    firsts = machines.sharing(folder)
    strangers = [index for index, first in enumerate(firsts) if first]
    if strangers and not is_copy(folder):
        raise UserError(
            f"{folder} of process 0 is not seen by process {strangers[0]} (of {len(firsts)}, "
            f"{len(strangers)} do not see it). All processes of a run need one --workdir: a folder "
            "that every machine mounts, or an address (s3://, gs://)."
        )
    return bool(strangers)


def steps_of_some(folder: epath.Path, steps: Sequence[int], may_differ: bool) -> set[int]:
    """Return the steps that not all processes see; all must call.

    Such a one was being deleted when a program was killed, or has just been written.

    Args:
      folder: of the steps, for errors.
      steps: that this process sees, oldest first.
      may_differ: whether each machine may have its own, and all go on from one that all have.

    Raises:
      RunStoppedError: there are steps, and none that all have; or they may not differ, and do.
    """
    if jax.process_count() == 1:
        return set()
    own = np.full(_COMPARED, -1, np.int32)
    newest = list(steps)[-_COMPARED:]
    own[: len(newest)] = newest
    found = [set(row[row >= 0].tolist()) for row in multihost_utils.process_allgather(own)]
    common = set.intersection(*found)
    if not may_differ and any(row != common for row in found):
        raise RunStoppedError(
            f"{folder}: the processes do not see the same steps (here: {list(steps)}). Network "
            "disks may show new files late: start the same command again in a minute."
        )
    if any(found) and not common:
        raise RunStoppedError(
            f"{folder}: the machines have copies with different steps (here: {list(steps)}); the "
            "store was changed meanwhile. Start the same command again."
        )
    return set(newest) - common  # nothing is known of older ones


class FollowedSteps:
    """Takes the place of orbax's manager where this process writes no steps."""

    def __init__(self, folder: epath.Path, *, only_whole: bool = True):
        """Look which steps there are.

        Args:
          folder: of the steps.
          only_whole: leave out those that a copy lacks a part of.
        """
        found = folder.glob("*") if folder.is_dir() else ()
        names = [p.name for p in found if not only_whole or (p / STEP_MARK).exists()]
        self._steps = {int(name) for name in names if name.isdigit()}

    def all_steps(self) -> list[int]:
        """Return the steps that were there at the start until the first `save`, then its own."""
        return sorted(self._steps)

    def save(self, step: int, **_: Any) -> None:
        """Note that process 0 writes a step."""
        self._steps.add(step)

    def is_saving_in_progress(self) -> bool:
        """Say no: process 0 writes."""
        return False

    def wait_until_finished(self) -> None:
        """Do nothing; where process 0 fails, `distributed.peers` ends this process."""

    def reload(self) -> None:
        """Forget all: process 0 has set the damaged ones aside, whose numbers are free again."""
        self._steps.clear()

    def close(self) -> None:
        """Do nothing: nothing is open."""


def on_first_host(state: Any) -> Any:
    """Copy a state from the devices of all processes to the memory of process 0.

    Args:
      state: a pytree of global arrays; all processes must call.

    Returns:
      the same pytree of NumPy arrays in process 0, None in the others.
    """
    is_first = jax.process_index() == 0

    def fetch(leaf: jax.Array) -> np.ndarray | None:
        if leaf.is_fully_replicated:
            # A copy: the devices may use the memory of the next step's donated arrays.
            return np.array(leaf.addressable_data(0)) if is_first else None
        whole = multihost_utils.process_allgather(leaf, tiled=True)
        return whole if is_first else None

    fetched = jax.tree.map(fetch, state)
    return fetched if is_first else None
