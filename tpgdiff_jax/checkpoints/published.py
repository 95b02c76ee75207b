"""The publication format: one `.safetensors` file, and a JSON file for people to read.

The description that the JSON shows stands in the weights file, too, and is read from there, so the
two cannot be mixed up.  Weights lie in groups (`GROUPS`), each of which can be read alone.
"""

import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.config import base_config
from tpgdiff_jax.data.images import replacing
from tpgdiff_jax.models import tpgdiff

FORMAT = "tpgdiff_jax weights 1"
# `teacher` and `clip` serve training only.
GROUPS = (
    "unet",
    "structure",
    "encoder",
    "semantic",
    "degradation",
    "depth",
    "segmentation",
    "teacher",
    "clip",
)
# What a finished run publishes in its folder; stage two looks for stage one's here.
WEIGHTS_NAME = "weights.safetensors"
STAGE_ONE = ("semantic", "degradation")
# What of a configuration decides how weights are used.
_DESCRIBED = ("model", "priors", "diffusion")
# How the weights are best used, unless their user says otherwise.
_USE = ("sampler", "steps", "clamp")


def describe(config: ConfigDict) -> dict[str, Any]:
    """Return what of a configuration belongs to the weights, as plain JSON data."""
    whole = json.loads(config.to_json())
    described = {name: whole[name] for name in _DESCRIBED}
    for key in ("weights", "stage_one"):  # paths of the machine that trained
        described["priors"].pop(key)
    described["model"].pop("convolutions")  # another machine may not have that way
    described["eval"] = {name: whole["eval"][name] for name in _USE}
    return described | {"degradations": whole["data"]["degradations"]}


def described_config(description: Mapping[str, Any]) -> ConfigDict:
    """Return the configuration that a description was made of, all else at its default.

    Raises:
      ValueError: a key that this version does not know.
    """
    config = base_config()
    try:
        for name in (*_DESCRIBED, "eval"):
            config[name].update(description[name])
        config.data.degradations = tuple(description["degradations"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"The description of the weights does not fit this version: {error}."
        ) from error
    return config


def save(
    path: pathlib.Path, weights: Mapping[str, Any], description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write weights and their description; nothing that exists is overwritten.

    Args:
      path: the `.safetensors` file; the JSON gets the same name.
      weights: group -> nested dict of arrays.
      description: of `describe`, and whatever else people should know.

    Returns:
      what the JSON holds.

    Raises:
      ValueError: an unknown group, another suffix, or a file of either name is there already.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: the name of published weights ends in .safetensors.")
    if unknown := set(weights) - set(GROUPS):
        raise ValueError(f"Unknown groups of weights: {sorted(unknown)}.")
    for taken in (path, path.with_suffix(".json")):
        if taken.exists():
            raise ValueError(f"{taken} exists already; choose another name, or remove it first.")
    flat = {
        "/".join(key): np.ascontiguousarray(value) for key, value in flatten_dict(weights).items()
    }
    parts = {name: _count(group) for name, group in weights.items()}
    text = json.dumps({"format": FORMAT, **description, "parts": parts}, indent=2, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = safetensors.numpy.save(flat, metadata={"description": text})
    for target, content in ((path, data), (path.with_suffix(".json"), f"{text}\n".encode())):
        with replacing(target) as temporary:
            temporary.write_bytes(content)
    return json.loads(text)


def _count(group: Mapping[str, Any]) -> dict[str, int]:
    leaves = flatten_dict(group).values()
    return {"tensors": len(leaves), "parameters": sum(int(np.size(leaf)) for leaf in leaves)}


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Rename published weights and their JSON to the first free NAME_before_N; return the name."""
    names = (path.with_stem(f"{path.stem}_before_{number}") for number in itertools.count(1))
    new = next(name for name in names if not name.exists())
    for suffix in (".json", path.suffix):
        if path.with_suffix(suffix).exists():
            os.replace(path.with_suffix(suffix), new.with_suffix(suffix))
    return new


def is_published(path: pathlib.Path) -> bool:
    """Tell whether a `.safetensors` file is in this format; a damaged one is not."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return "description" in (file.metadata() or {})
    except safetensors.SafetensorError:
        return False


def load(
    path: str | pathlib.Path, groups: Iterable[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read published weights; only the groups asked for are read from the disk.

    Args:
      path: the `.safetensors` file.
      groups: which groups; those that the file lacks are left out.  All by default.

    Returns:
      (description, group -> nested dict of numpy arrays).

    Raises:
      ValueError: no such file, a damaged one, or one that is not in this format.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is no file; name published weights (--mode=convert writes them).")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("description", "{}")
            description = json.loads(text)
            if description.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is not in the format {FORMAT!r}; make it so with --mode=convert."
                )
            wanted = set(GROUPS if groups is None else groups)
            names = [name for name in file.keys() if name.split("/")[0] in wanted]  # noqa: SIM118
            flat = {tuple(name.split("/")): file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or no .safetensors file: {error}.") from error
    return description, unflatten_dict(flat)


def fingerprint(path: str | pathlib.Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
      ValueError: the file cannot be read, lacks a network, or holds one of another shape.
    """
    networks = tpgdiff.frozen_networks(model)
    flat = {key[-1]: network for key, network in flatten_dict(networks).items()}
    weights = {}
    for group, network in flat.items():
        source = stage_one if stage_one and group in STAGE_ONE else path
        if group == "semantic" and "semantic" not in group_names(source):
            logging.warning("%s holds no student; CLIP itself is the semantic prior.", source)
            weights[group] = {"student": load_clip(source, network.student)}
        else:
            weights[group] = load_group(source, group, network)
    return _replaced(networks, weights.__getitem__)


def group_names(path: str | pathlib.Path) -> set[str]:
    """Return which groups a file of published weights holds; errors as in `load`."""
    description, _ = load(path, ())
    return set(description["parts"])


def load_group(path: str | pathlib.Path, group: str, network: Any) -> dict[str, Any]:
    """Read one network's weights.

    Args:
      path: published weights that hold the group.
      group: one of `GROUPS`.
      network: the module the weights must fit.

    Raises:
      ValueError: the file cannot be read, lacks the group, or holds another shape.
    """
    _, weights = load(path, (group,))
    check_group(path, group, weights.get(group), abstract_params(network))
    return weights[group]


def load_clip(path: str | pathlib.Path, tower: Any) -> dict[str, Any]:
    """Read stage one's teacher: the group `teacher`, else `clip`; errors as in `load_group`."""
    groups = load(path, ("teacher", "clip"))[1]
    return load_group(path, "teacher" if "teacher" in groups else "clip", tower)


def load_trained(path: str | pathlib.Path, model: tpgdiff.TPGDiff) -> dict[str, Any]:
    """Read all of a system that learns in stage two; errors as in `load_group`."""
    trained = {"unet": model.unet, "structure": model.structure, "encoder": model.encoder}
    return {
        name: load_group(path, name, module)
        for name, module in trained.items()
        if module is not None
    }


def load_system(
    path: str | pathlib.Path,
) -> tuple[tpgdiff.TPGDiff, dict[str, Any], ConfigDict]:
    """Read a whole system, ready to restore images.

    Args:
      path: published weights with a UNet and all that its description names.

    Returns:
      (the system, its variables {"params", "frozen"}, its configuration).

    Raises:
      ValueError: the file cannot be read, or lacks a part.
    """
    description, _ = load(path, ())
    config = described_config(description)
    model = tpgdiff.build(config)
    variables = {"params": load_trained(path, model), "frozen": load_frozen(path, model)}
    return model, variables, config


def _replaced(tree: Mapping[str, Any], value_of: Callable[[str], Any]) -> dict[str, Any]:
    return {
        name: _replaced(inner, value_of) if isinstance(inner, dict) else value_of(name)
        for name, inner in tree.items()
    }


def check_group(
    path, group: str, found: Mapping[str, Any] | None, shapes: Mapping[str, Any]
) -> None:
    """Raise ValueError unless a group holds exactly the parameters of its network."""
    if found is None:
        raise ValueError(f"{path} holds no weights of {group!r}, which this system needs.")
    have = {"/".join(key): np.shape(value) for key, value in flatten_dict(found).items()}
    want = {"/".join(key): leaf.shape for key, leaf in flatten_dict(shapes).items()}
    wrong = sorted(key for key in have.keys() | want.keys() if have.get(key) != want.get(key))
    if wrong:
        key = wrong[0]
        raise ValueError(
            f"{path}: {len(wrong)} weights of {group!r} do not fit; the first, {key}, has shape "
            f"{have.get(key, 'none')}, expected {want.get(key, 'none')}. The configuration (model, "
            "priors) must be that of the weights."
        )
