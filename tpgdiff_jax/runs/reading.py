"""Read a step of a run in all its processes: where one cannot, all of them raise."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.runs import step_folder
from tpgdiff_jax.runs.step_folder import DATA, METADATA, DamagedStepError


class CheckpointError(RunStoppedError):
    """A checkpoint could not be written or read; the message names folder, step and cause."""


def read_step(folder: epath.Path, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
    """Read one step.

    Args:
      folder: of all steps.
      step: its number.
      abstract_state: `jax.ShapeDtypeStruct` with shardings (of any mesh), one per leaf.

    Returns:
      (the state, the place in the data).

    Raises:
      UserError: it does not fit; names the parameters and both shapes.
      CheckpointError: it is damaged; names folder, step and cause.
    """

    def read(path):
        data = step_folder.read_json(path, DATA)
        step_folder.read_json(path, METADATA)
        step_folder.read_scores(path)
        return step_folder.read_state(path, abstract_state), data

    return _read(folder, step, read)


def read_metadata(folder: epath.Path, step: int) -> dict[str, Any]:
    """Read what the run that wrote a step gave as `metadata`; raises `CheckpointError`."""
    return _read(folder, step, lambda path: step_folder.read_json(path, METADATA))


def read_all_scores(folder: epath.Path, steps: Iterable[int]) -> dict[int, dict[str, float]]:
    """Read the scores of the steps that have some; those that cannot be read get a warning."""
    found = {}
    for step in steps:
        try:
            scores = step_folder.read_scores(folder / str(step))
        except DamagedStepError as error:
            text = "Step %d in %s does not count for the best: %s."
            logging.warning(text, step, folder, error)
            continue
        if scores is not None:
            found[step] = scores
    return found


def abstract(tree: Any, shardings: Any) -> Any:
    """Attach shardings to the shapes of a tree, as `read_step` wants them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )


def gather(value: bool) -> list[bool]:
    """Return every process's value; also a barrier."""
    if jax.process_count() == 1:
        return [value]
    return multihost_utils.process_allgather(np.array(value)).tolist()


def _read(folder: epath.Path, step: int, read: Callable[[epath.Path], Any]) -> Any:
    found, problem = None, ""
    try:
        found = read(folder / str(step))
    except DamagedStepError as error:
        problem, cause = str(error), error
    if all(gather(not problem)):
        return found
    where = f"Step {step} in {folder} cannot be read"
    if problem:
        raise CheckpointError(f"{where}: {problem}.") from cause
    raise CheckpointError(f"{where} by another process; its log says why.")
