"""Read a run's folder as a system that is ready to restore images: its newest averaged weights."""

import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.published import check_group, load_frozen
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.checkpoints.step_folder import STATE
from tpgdiff_jax.config import base_config
from tpgdiff_jax.models import tpgdiff


def load_run(folder: str | pathlib.Path) -> tuple[tpgdiff.TPGDiff, dict[str, Any], ConfigDict]:
    """Read the system that a run has trained so far; the optimiser's state stays on the disk.

    Args:
      folder: the run's --workdir; where it has two stages, that of the second is meant.

    Returns:
      (the system, its variables {"params", "frozen"} as numpy arrays, the run's configuration).

    Raises:
      ValueError: the folder is no run's, has no sound checkpoint, or does not fit this version.
    """
    folder = pathlib.Path(folder)
    if not (folder / "config.json").is_file() and (folder / "diffusion").is_dir():
        folder = folder / "diffusion"
    config = _run_config(folder)
    model = tpgdiff.build(config)
    trained = {"unet": model.unet, "structure": model.structure, "encoder": model.encoder}
    trained = {name: module for name, module in trained.items() if module is not None}
    params = _newest_average(folder, config)
    for group, module in trained.items():
        check_group(folder, group, params.get(group), abstract_params(module))
    frozen = {}
    if tpgdiff.frozen_networks(model):
        frozen = load_frozen(config.priors.weights, model, _stage_one(config))
    return model, {"params": {name: params[name] for name in trained}, "frozen": frozen}, config


def _run_config(folder: pathlib.Path) -> ConfigDict:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} is no run's folder (it has no config.json); name a --workdir of training, "
            "or a .safetensors file."
        )
    config = base_config()
    try:
        config.update(json.loads(path.read_text()))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this version: {error}.") from error
    if config.stage == "priors":
        raise ValueError(f"{folder} holds a run of stage one, which restores no images.")
    return config


def _stage_one(config: ConfigDict) -> str | pathlib.Path:
    """Return the file with stage one's weights; "" where they are in `priors.weights`."""
    path = config.priors.stage_one
    is_folder = path and pathlib.Path(path).is_dir()
    return pathlib.Path(path) / "weights.safetensors" if is_folder else path


def _newest_average(folder: pathlib.Path, config: ConfigDict) -> Any:
    """Read the averaged parameters (`TrainState.ema`) of the newest step that is sound."""
    root = folder / "checkpoints"
    steps = sorted((int(path.name) for path in root.glob("*") if path.name.isdigit()), reverse=True)
    for step in steps:
        state = root.absolute() / str(step) / STATE
        try:
            return _read_average(epath.Path(state), config)
        except (OSError, ValueError, KeyError, TypeError) as error:
            text = " ".join(str(error).split())
            logging.warning("%s cannot be read (%s); an older step is tried.", state, text)
    raise ValueError(f"{folder} holds no complete checkpoint that can be read; train longer.")


def _read_average(state: epath.Path, config: ConfigDict) -> Any:
    # Restoration takes the average that `eval.ema_decay` names; 0 is the first.
    decays = tuple(config.ema.more_decays)
    number = decays.index(config.eval.ema_decay) if config.eval.ema_decay in decays else None
    handler = ocp.PyTreeCheckpointHandler()
    stored = handler.metadata(state).tree
    chosen = {"ema": stored["ema"]} if number is None else {"more_ema": stored["more_ema"]}
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), chosen)
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    args = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
    found = handler.restore(state, args=args)
    return found["ema"] if number is None else found["more_ema"][number]


def fingerprint_of(variables: Any) -> str:
    """Return a SHA-256 over the names and values of weights, in hexadecimal."""
    digest = hashlib.sha256()
    for key, value in sorted(flatten_dict(variables).items()):
        digest.update(f"{'/'.join(key)} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8))
    return digest.hexdigest()
