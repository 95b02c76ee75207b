"""Read a run's folder as a system that is ready to restore images: its newest averaged weights."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of
from tpgdiff_jax.checkpoints.published import WEIGHTS_NAME, load_frozen, weights_in
from tpgdiff_jax.checkpoints.shapes import abstract_params, check_group
from tpgdiff_jax.config import base_config, check_values, chosen_average
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.runs.reading import check_frozen
from tpgdiff_jax.runs.step_folder import (
    DAMAGE,
    DATA,
    STATE,
    DamagedStepError,
    check_files,
    read_json,
)


def load_run(folder: str | pathlib.Path) -> tuple[tpgdiff.TPGDiff, dict[str, Any], ConfigDict]:
    """Read the system that a run has trained so far; the optimiser's state stays on the disk.

    Args:
      folder: the run's --workdir; where it has two stages, that of the second is meant.

    Returns:
      (the system, its variables {"params", "frozen"} as numpy arrays, the run's configuration).

    Raises:
      UserError: the folder is no run's, has no sound checkpoint, does not fit this version, or
        its frozen networks' files are not those it learned beside.
    """
    folder = pathlib.Path(folder)
    if not (folder / "config.json").is_file() and (folder / "diffusion").is_dir():
        folder = folder / "diffusion"
    config = _run_config(folder)
    model = tpgdiff.build(config)
    trained = tpgdiff.trained_networks(model)
    params, data = _newest_average(folder, config)
    for group, module in trained.items():
        check_group(folder, group, params.get(group), abstract_params(module))
    frozen = {}
    if tpgdiff.frozen_networks(model):
        path = config.priors.weights and weights_in(config.priors.weights)
        frozen = load_frozen(path, model, _stage_one(folder, config))
    check_frozen(data, fingerprint_of(frozen))
    return model, {"params": {name: params[name] for name in trained}, "frozen": frozen}, config


def _run_config(folder: pathlib.Path) -> ConfigDict:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder} is no run's folder (it has no config.json); name a --workdir of training, "
            "or a .safetensors file."
        )
    config = base_config()
    stored = json_text.read_object(path, "bring it back from a copy")
    try:
        config.update(stored)
        check_values(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = " ".join(str(error).rstrip(".").split())
        raise UserError(f"{path} does not fit this version: {what}.") from error
    if config.stage == "priors":
        raise UserError(f"{folder} holds a run of stage one, which restores no images.")
    return config


def _stage_one(folder: pathlib.Path, config: ConfigDict) -> str | pathlib.Path:
    """Return the file with stage one's weights; "" where they are in `priors.weights`."""
    path = config.priors.stage_one
    # An experiment of both stages may have been moved or copied since.
    sibling = folder.parent / "priors" / WEIGHTS_NAME
    is_both = folder.name == "diffusion" and pathlib.Path(path).name == "priors"
    if is_both and sibling.is_file():
        return sibling
    return weights_in(path) if path else ""


def _newest_average(folder: pathlib.Path, config: ConfigDict) -> tuple[Any, dict[str, Any]]:
    """Read averaged parameters of the newest step that is sound, and its place in the data."""
    number = chosen_average(config)  # a wrong choice is no step's fault
    root = folder / "checkpoints"
    steps = sorted((int(path.name) for path in root.glob("*") if path.name.isdigit()), reverse=True)
    for step in steps:
        state = root.absolute() / str(step) / STATE
        try:
            data = read_json(epath.Path(state.parent), DATA)
            check_files(epath.Path(state.parent), STATE)
            return _read_average(epath.Path(state), number), data
        except (DamagedStepError, *DAMAGE) as error:
            text = " ".join(str(error).split())
            logging.warning("%s cannot be read (%s); an older step is tried.", state, text)
    raise UserError(f"{folder} holds no complete checkpoint that can be read; train longer.")


def _read_average(state: epath.Path, number: int) -> Any:
    handler = ocp.PyTreeCheckpointHandler()
    stored = handler.metadata(state).tree
    chosen = {"more_ema": stored["more_ema"]} if number else {"ema": stored["ema"]}
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), chosen)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
    found = handler.restore(state, args=args)
    return found["more_ema"][number - 1] if number else found["ema"]
