"""What a run's folder tells of earlier starts: a finished stage, or checkpoints that are gone."""

import pathlib

from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.config import base_config
from tpgdiff_jax.reporting import json_lines, json_text
from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.stores.places import is_copy, shown


def ema_decay(config: ConfigDict) -> float:
    """Return the decay of the average that a run publishes."""
    return config.eval.ema_decay or config.ema.decay


def is_stage_one_finished(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Tell whether stage one has taken its last step and published what it would publish now.

    Args:
      config: of stage one; the folder's is known to be the same, see `prepare_workdir`.
      workdir: its folder.

    Raises:
      UserError: the published weights are damaged.
    """
    path = workdir / published.WEIGHTS_NAME
    if not path.is_file():
        return False
    expected = published.describe(config) | {
        "stage": config.stage,
        "trained_steps": config.optim.steps,
        "ema_decay": ema_decay(config),
    }
    for other in ("model", "eval"):  # stage two's; how weights are used
        expected.pop(other)
    description, _ = published.load(path, ())
    return all(description.get(key) == value for key, value in expected.items())


def sign_of_checkpoints(workdir: pathlib.Path) -> str:
    """Return what shows that the run in a folder has saved before; "" where nothing does.

    Call it before the configuration is stored anew: the rhythm of saves may change between starts.
    """
    if (workdir / published.WEIGHTS_NAME).is_file():
        return published.WEIGHTS_NAME
    if is_copy(workdir):  # metrics reach a store before the step that was saved with them
        return ""
    rows = json_lines.read(workdir / "metrics.jsonl")
    steps = [row["step"] for row in rows if isinstance(row.get("step"), int)]
    # The first save may have been cut off, and reports go on meanwhile: the second waits for it.
    if max(steps, default=0) > 2 * _rhythm(workdir):
        return f"metrics.jsonl has step {max(steps)}"
    return ""


def refuse_lost(workdir: pathlib.Path, sign: str) -> None:
    """Raise where a run that has no checkpoint has saved some: it would begin again, from nothing.

    Args:
      workdir: the run's folder.
      sign: of `sign_of_checkpoints`.

    Raises:
      RunStoppedError: as said; nothing in the folder is changed.
    """
    if sign:
        where = shown(workdir / "checkpoints")
        raise RunStoppedError(
            f"The checkpoints of --workdir={shown(workdir)} are missing: there are none in "
            f"{where}, but the run has saved before ({sign}). Put them back, or move the "
            "whole folder away to start anew."
        )


def _rhythm(workdir: pathlib.Path) -> int:
    """Return how many steps lay between two saves when the run was last started."""
    path = workdir / "config.json"
    if not path.is_file():
        return 0
    then = json_text.read_object(path, "bring it back from a copy")
    every = then.get("checkpoint", {}).get("every_steps", base_config().checkpoint.every_steps)
    return min(every, then.get("optim", {}).get("steps", every))
