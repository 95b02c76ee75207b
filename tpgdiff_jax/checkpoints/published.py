"""The publication format: one `.safetensors` file, and a JSON file for people to read.

The description that the JSON shows stands in the weights file, too, and is read from there, so the
two cannot be mixed up.  Weights lie in groups (`GROUPS`), each of which can be read alone.
"""

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.aside import there
from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of, fingerprint_of_items
from tpgdiff_jax.checkpoints.known import check_depth, check_known
from tpgdiff_jax.checkpoints.shapes import check_group, possible_params
from tpgdiff_jax.checkpoints.storing import (
    FORMAT,
    UPDATE,
    narrowed,
    opened,
    read_description,
    tensor,
    widened,
)
from tpgdiff_jax.config import base_config
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import replacing
from tpgdiff_jax.stores.copies import local
from tpgdiff_jax.stores.urls import is_url, join, named

STAGE_ONE = ("semantic", "degradation")
# `teacher` and `clip` serve training only.
GROUPS = (*tpgdiff.TRAINED, *STAGE_ONE, "depth", "segmentation", "teacher", "clip")
# What a finished run publishes in its folder; stage two looks for stage one's here.
WEIGHTS_NAME = "weights.safetensors"
# What --checkpoint=default, Restorer.load("default") and the keys that name weights mean; a file or
# folder of that name is ./default.
DEFAULT = "default"
ASSETS = pathlib.Path(__file__).parent.parent / "assets"
DEFAULT_WEIGHTS = ASSETS / "default.safetensors"
# What of a configuration decides how weights are used.
_DESCRIBED = ("model", "priors", "diffusion")
# How the weights are best used, unless their user says otherwise.
USE = ("sampler", "steps", "clamp", "passes")


def describe(config: ConfigDict) -> dict[str, Any]:
    """Return what of a configuration belongs to the weights, as plain JSON data."""
    whole = json.loads(config.to_json())
    described = {name: whole[name] for name in _DESCRIBED}
    for key in ("weights", "stage_one"):  # paths of the machine that trained
        described["priors"].pop(key)
    described["model"].pop("convolutions")  # another machine may not have that way
    described["eval"] = {name: whole["eval"][name] for name in USE}
    return described | {"degradations": whole["data"]["degradations"]}


def described_config(
    description: Mapping[str, Any], path: str | pathlib.Path = "weights"
) -> ConfigDict:
    """Return the configuration that a description was made of, all else at its default.

    Args:
      description: of `load`.
      path: of the file, for messages.

    Raises:
      UserError: a key or a choice that this version does not know.
    """
    config = base_config()
    try:
        for name in (*_DESCRIBED, "eval"):
            config[name].update(description[name])
        config.data.degradations = tuple(description["degradations"])
        check_known(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = " ".join(str(error.args[0] if error.args else error).split())
        raise UserError(
            f"{path}: its description does not fit this version ({what}); it may come from a later "
            f"one: {UPDATE}, or use other weights."
        ) from error
    return config


def save(
    path: pathlib.Path,
    weights: Mapping[str, Any],
    description: Mapping[str, Any],
    dtype: str = "float32",
) -> dict[str, Any]:
    """Write weights and their description; nothing that exists is overwritten.

    Args:
      path: the `.safetensors` file; the JSON gets the same name.
      weights: group -> nested dict of arrays.
      description: of `describe`, and whatever else people should know.
      dtype: in which kernels are stored, see `storing.narrowed`; they are loaded as the
        configuration's `model.param_dtype`.

    Returns:
      what the JSON holds: the description, with the weights' fingerprint and their number type.

    Raises:
      UserError: an unknown group, another suffix, a file of either name that is there already, or
        values that do not fit the type.
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: the name of published weights ends in .safetensors.")
    if unknown := set(weights) - set(GROUPS):
        raise UserError(f"Unknown groups of weights: {sorted(unknown)}.")
    if taken := there(path):
        raise UserError(f"{taken[0]} exists already; choose another name, or remove it first.")
    flat = flatten_dict(weights, sep="/")
    flat = {name: narrowed(name, value, dtype) for name, value in flat.items()}
    whole = {
        **description,
        "format": FORMAT,
        "parts": {name: _count(group) for name, group in weights.items()},
        "stored_as": dtype,
        "weights": fingerprint_of(unflatten_dict(flat, sep="/")),
    }
    text = json.dumps(whole, indent=2, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = safetensors.numpy.save(flat, metadata={"description": text})
    for target, content in ((path, data), (path.with_suffix(".json"), f"{text}\n".encode())):
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    return json.loads(text)


def _count(group: Mapping[str, Any]) -> dict[str, int]:
    leaves = flatten_dict(group).values()
    return {"tensors": len(leaves), "parameters": sum(int(np.size(leaf)) for leaf in leaves)}


def load(
    path: str | pathlib.Path, groups: Iterable[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read published weights; only the groups asked for are read from the disk.

    Args:
      path: the `.safetensors` file, or its address in a store.
      groups: which groups; those that the file lacks are left out.  All by default.

    Returns:
      (description, group -> nested dict of numpy arrays, float32 whatever they are stored as).

    Raises:
      UserError: no such file, a damaged one, or one that is not in this format or of another
        version of it.
    """
    path = local(path)
    with opened(path) as file:
        description = read_description(path, file.metadata())
        wanted = set(GROUPS if groups is None else groups)
        names = [name for name in file.keys() if name.split("/")[0] in wanted]  # noqa: SIM118
        flat = {tuple(name.split("/")): widened(tensor(file, name)) for name in names}
    parents = {key[:end] for key in flat for end in range(1, len(key))}
    if twice := sorted("/".join(key) for key in flat.keys() & parents):
        raise UserError(
            f"{path} is damaged: {twice[0]} is an array and holds others; get it again."
        )
    return description, unflatten_dict(flat)


def fingerprint(path: str | pathlib.Path) -> str:
    """Return the fingerprint of a file's weights: what its description says, if it is true.

    Raises:
      UserError: as `load`; or the weights are not those of the description: a damaged file.
    """
    path = local(path)
    with opened(path) as file:
        said = read_description(path, file.metadata()).get("weights")
        keys = sorted(tuple(name.split("/")) for name in file.keys())  # noqa: SIM118
        found = fingerprint_of_items((key, tensor(file, "/".join(key))) for key in keys)
    if said not in (None, found):  # files of older versions may not say it
        raise UserError(
            f"{path} is damaged: its weights have the fingerprint {found[:16]}..., its description "
            f"says {str(said)[:16]}...; get the file again, or export it anew."
        )
    return found


def load_frozen(
    path: str | pathlib.Path, model: tpgdiff.TPGDiff, stage_one: str | pathlib.Path = ""
) -> dict[str, Any]:
    """Read the weights of a system's frozen networks.

    Args:
      path: published weights that hold them.  A semantic network that is missing is CLIP itself.
      model: the system.
      stage_one: published weights of the semantic and degradation networks, where those are to be
        taken from another file.

    Returns:
      the collection `frozen`, nested dict of numpy arrays.

    Raises:
      UserError: the file cannot be read, lacks a network, or holds one of another shape.
    """
    weights = {}
    for place, network in flatten_dict(tpgdiff.frozen_networks(model)).items():
        group = place[-1]
        source = stage_one if stage_one and group in STAGE_ONE else path
        if group == "semantic" and "semantic" not in group_names(source):
            logging.warning("%s holds no student; CLIP itself is the semantic prior.", source)
            weights[place] = {"student": load_clip(source, network.student)}
        else:
            weights[place] = load_group(source, group, network)
    return unflatten_dict(weights)


def weights_in(path: str | pathlib.Path) -> pathlib.Path:
    """Return the weights file that a path means: itself, or what a run published in it.

    Of an address it is the copy on this machine, of "default" what comes inside the package.
    """
    if path == DEFAULT:
        return DEFAULT_WEIGHTS
    if is_url(path):
        is_file = named(path).endswith(".safetensors")
        return local(path if is_file else join(named(path), WEIGHTS_NAME))
    path = pathlib.Path(path)
    return path / WEIGHTS_NAME if path.is_dir() else path


def group_names(path: str | pathlib.Path) -> set[str]:
    """Return which groups a file of published weights holds; errors as in `load`."""
    return set(load(path, ())[0]["parts"])


def load_group(path: str | pathlib.Path, group: str, network: Any) -> dict[str, Any]:
    """Read one network's weights.

    Args:
      path: published weights that hold the group.
      group: one of `GROUPS`.
      network: the module the weights must fit.

    Raises:
      UserError: the file cannot be read, lacks the group, or holds another shape.
    """
    _, weights = load(path, (group,))
    shapes = possible_params(network, f"{path}: {group!r}, as the description has it")
    check_group(path, group, weights.get(group), shapes)
    return weights[group]


def load_clip(path: str | pathlib.Path, tower: Any) -> dict[str, Any]:
    """Read stage one's teacher: the group `teacher`, else `clip`; errors as in `load_group`."""
    groups = load(path, ("teacher", "clip"))[1]
    return load_group(path, "teacher" if "teacher" in groups else "clip", tower)


def load_trained(path: str | pathlib.Path, model: tpgdiff.TPGDiff) -> dict[str, Any]:
    """Read all of a system that learns in stage two; errors as in `load_group`."""
    trained = tpgdiff.trained_networks(model)
    return {name: load_group(path, name, module) for name, module in trained.items()}


def load_system(path: str | pathlib.Path) -> tuple[tpgdiff.TPGDiff, dict[str, Any], ConfigDict]:
    """Read a whole system, ready to restore images.

    Args:
      path: published weights with a UNet and all that its description names.

    Returns:
      (the system, its variables {"params", "frozen"} in `model.param_dtype`, its configuration).

    Raises:
      UserError: the file cannot be read, lacks a part, or was made by a later version.
    """
    description, _ = load(path, ())
    config = described_config(description, path)
    with opened(pathlib.Path(path)) as file:
        tensors = len(file.keys())
    try:
        check_depth(config, tensors)
    except UserError as error:
        raise UserError(f"{path}: its description is damaged: {error}") from error
    model = tpgdiff.build(config)
    variables = {"params": load_trained(path, model), "frozen": load_frozen(path, model)}
    dtype = jnp.dtype(config.model.param_dtype)
    return model, jax.tree.map(lambda leaf: leaf.astype(dtype), variables), config
