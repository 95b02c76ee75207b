"""Whether all processes of a run train the same: package, configuration, images, weights."""

import json

import jax
from ml_collections import ConfigDict

import tpgdiff_jax
from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of
from tpgdiff_jax.config import shared_items
from tpgdiff_jax.data.training_data import TrainingData
from tpgdiff_jax.distributed.agreement import differing
from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.training.stages import Stage

_PACKAGE = "the package tpgdiff_jax"
_MOST = 5  # differences that are named


def check_same_stages(config: ConfigDict) -> None:
    """Check that all processes train the same stages, before they work on the first one together.

    Raises:
      RunStoppedError: they do not; in all processes.
    """
    _refuse({"config.stage": config.stage})


def check_same_training(stage: Stage, data: TrainingData) -> None:
    """Check that all processes train the same; each must call before they work together.

    Each reads configuration, images and weights itself.  With others than process 0 it would learn
    something else without a word, or wait for ever for a save that the others do not make.

    Args:
      stage: what this process trains.
      data: its images; `fingerprint` also has that of the frozen weights.

    Raises:
      RunStoppedError: they differ; in all processes.
    """
    if jax.process_count() == 1:
        return
    config = _settings(stage.config)
    package = f"{tpgdiff_jax.__version__}, {len(config)} keys"
    _refuse({_PACKAGE: package})  # first: others may have other keys
    _refuse(
        config
        | {
            "the training images": f"{data.fingerprint['images']}, {data.fingerprint['identity']}",
            "the frozen networks' weights": data.fingerprint["frozen"],
            "the weights in config.init_from": fingerprint_of(stage.start),
        }
    )


def _settings(config: ConfigDict) -> dict[str, str]:
    return {f"config.{key}": json.dumps(value) for key, value in shared_items(config).items()}


def _refuse(parts: dict[str, str]) -> None:
    found = differing(parts)
    if found is None:
        return
    other, names = found
    shown = [f"{name} (here {parts[name][:60]})" for name in names[:_MOST]]
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    raise RunStoppedError(
        f"Process {other} does not train what process 0 trains. They differ in "
        f"{', '.join(shown)}{more}. Start all processes with the same package, flags and files."
    )
