"""What a run's folder tells of earlier starts: a finished stage, or checkpoints that are gone."""

import pathlib

from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.runs.manager import SAVED
from tpgdiff_jax.stores.places import is_copy, shown
from tpgdiff_jax.training.validation_report import REPORT, SCORES


def ema_decay(config: ConfigDict) -> float:
    """Return the decay of the average that a run publishes."""
    return config.eval.ema_decay or config.ema.decay


def is_stage_one_finished(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Tell whether stage one has published, after its last step, what it would now, and scored it.

    Of one whose checkpoints have been removed the weights are enough.

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
    if any(description.get(key) != value for key, value in expected.items()):
        return False
    is_scored = not config.data.eval_folder or (workdir / REPORT / SCORES).is_file()
    return is_scored or not any(p.name.isdigit() for p in workdir.glob("checkpoints/*"))


def refuse_lost(workdir: pathlib.Path) -> None:
    """Raise where a run that has no checkpoint has saved some: it would begin again, from nothing.

    Raises:
      RunStoppedError: as said; nothing in the folder is changed.
    """
    # The mark is hidden: it stays where somebody removes all, to start anew.  Of an address it lies
    # on one machine alone.
    has_saved = (workdir / SAVED).exists() and (workdir / "metrics.jsonl").exists()
    if (has_saved and not is_copy(workdir)) or (workdir / published.WEIGHTS_NAME).is_file():
        where = shown(workdir / "checkpoints")
        raise RunStoppedError(
            f"The checkpoints of --workdir={shown(workdir)} are missing: there are none in "
            f"{where}, but the run has saved before. Put them back, or move the whole folder away "
            "to start anew."
        )
