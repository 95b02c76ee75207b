"""One step of a run on disk: read it, and tell damage from a state of another shape.

Nothing here waits for other processes, so that one process may fail without the rest hanging.
"""

from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.runs import checksums

STATE, DATA, METADATA, SCORES = "state", "data", "metadata", "scores"

# What orbax and TensorStore raise for files that are missing, cut off or no JSON.
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, AssertionError)


class DamagedStepError(Exception):
    """A step's files are missing or cannot be read; the message says which item and why."""


def read_json(folder: epath.Path, item: str) -> dict[str, Any]:
    """Read one JSON item of a step.

    Raises:
      DamagedStepError: it is missing or no JSON object.
    """
    check_files(folder, item)
    try:
        found = ocp.JsonCheckpointHandler().restore(folder / item)
    except DAMAGE as error:
        raise DamagedStepError(f"{item}: {_one_line(error)}") from error
    if not isinstance(found, dict):
        raise DamagedStepError(f"{item}: a JSON object was expected, not {type(found).__name__}")
    return found


def read_state(folder: epath.Path, abstract_state: Any) -> Any:
    """Read the arrays of a step onto the devices that `abstract_state` names.

    Args:
      folder: of the step.
      abstract_state: pytree of `jax.ShapeDtypeStruct` with shardings, of any mesh.

    Returns:
      the same pytree of global arrays.

    Raises:
      DamagedStepError: files are missing or cannot be read.
      UserError: the step is sound, but of another structure, other shapes or number formats.
    """
    check_files(folder, STATE)
    handler = ocp.StandardCheckpointHandler()
    try:
        stored = handler.metadata(folder / STATE).tree
    except DAMAGE as error:
        raise DamagedStepError(f"{STATE}: {_one_line(error)}") from error
    _check_fits(folder, _leaves(stored), _leaves(abstract_state))
    try:
        return handler.restore(folder / STATE, args=ocp.args.StandardRestore(abstract_state))
    except DAMAGE as error:
        raise DamagedStepError(f"{STATE}: {_one_line(error)}") from error


def read_scores(folder: epath.Path) -> dict[str, float] | None:
    """Read the metrics a step was saved with, None if it was saved without.

    Raises:
      DamagedStepError: they cannot be read.
    """
    return read_json(folder, SCORES) if (folder / SCORES).exists() else None


def set_aside(folder: epath.Path) -> None:
    """Rename a damaged step, so that its number is free again; nothing is deleted."""
    target = folder.with_name(f"{folder.name}.corrupt")
    number = 1
    while target.exists():
        number += 1
        target = folder.with_name(f"{folder.name}.corrupt.{number}")
    folder.rename(target)
    logging.warning("The damaged checkpoint %s is now %s.", folder, target.name)


def check_files(folder: epath.Path, item: str) -> None:
    """Check that an item is there, and its files are those that were written.

    Raises:
      DamagedStepError: they are not; names the file.
    """
    if not (folder / item).exists():
        raise DamagedStepError(f"{item} is missing")
    if problem := checksums.verify(folder, item):
        raise DamagedStepError(problem)


def _leaves(tree: Any) -> dict[str, Any]:
    """Return {"params/unet/.../kernel": leaf}, alike for a state and for what orbax stored."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}


def _check_fits(folder: epath.Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    problems = [f"{name} is not in the checkpoint" for name in wanted if name not in stored]
    problems += [f"{name} is not in this model" for name in stored if name not in wanted]
    for name in wanted.keys() & stored.keys():
        there, here = stored[name], wanted[name]
        if tuple(there.shape) != tuple(here.shape):
            problems.append(
                f"{name} is {tuple(there.shape)} in the checkpoint, {tuple(here.shape)} here"
            )
        elif there.dtype != here.dtype:
            problems.append(f"{name} is {there.dtype} in the checkpoint, {here.dtype} here")
    if problems:
        # The optimiser's state and the average repeat what is wrong with a parameter.
        problems.sort(key=lambda text: (not text.startswith("params/"), text))
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(
            f"The checkpoint {folder} does not fit the configuration: "
            f"{'; '.join(problems[:5])}{more}. Use the configuration it was made with, or "
            "another --workdir."
        )


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
