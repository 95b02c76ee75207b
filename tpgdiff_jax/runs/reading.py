"""Read a step of a run in all its processes: where one cannot, all of them raise."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from tpgdiff_jax.reporting.errors import RunStoppedError, UserError
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
    found, cause = None, None
    try:
        path = folder / str(step)
        data = step_folder.read_json(path, DATA)
        step_folder.read_json(path, METADATA)
        step_folder.read_scores(path)
        found = step_folder.read_state(path, abstract_state), data
    except DamagedStepError as error:
        cause = error
    if all(gather(cause is None)):
        return found
    where = f"Step {step} in {folder} cannot be read"
    if cause is not None:
        raise CheckpointError(f"{where}: {cause}.") from cause
    raise CheckpointError(f"{where} by another process; its log says why.")


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


def check_frozen(data: Mapping[str, Any], now: str) -> None:
    """Raise UserError unless a checkpoint learned beside the frozen networks at hand.

    Args:
      data: what the checkpoint tells of its data.
      now: fingerprint of the frozen networks' weights.
    """
    if data.get("frozen") != now:
        raise UserError(
            "The frozen networks' weights are not those the run was started with; name the same "
            "files (config.priors.weights, config.priors.stage_one), or start a new run in another "
            "--workdir."
        )
