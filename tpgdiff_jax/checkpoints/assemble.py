"""Join weight files into one published system, and write a system back as released files."""

import dataclasses
import importlib.util
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
import tabulate
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints import published, released
from tpgdiff_jax.checkpoints.convert import Converted, convert, to_reference
from tpgdiff_jax.checkpoints.storing import is_published
from tpgdiff_jax.priors.cues import RELEASED_CUES
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import file_sha256, replacing
from tpgdiff_jax.stores.copies import local

UNET_FILE = "universal-ir.pth"
PRIORS_FILE = "tpgd.pt"
_TOWERS = ("encoder", "clip", "conv", "head_blocks", "classification")
# Group -> what of `priors` a published description tells of it.
_TOLD = {
    "semantic": _TOWERS,
    "degradation": _TOWERS,
    "encoder": ("encoder", "encoder_width", "classification"),
    "structure": ("cues", "map_size", "map_width", "map_max_width", "tokens", "connector_depth"),
    "depth": ("depth_net", "depth_size"),
    "segmentation": ("segmentation_net", "segmentation_size"),
    "teacher": ("clip",),
    "clip": ("clip",),
}
_CLASSIFYING = ("degradation", "encoder")  # groups that number the degradations
# Groups that the released program has as well; the last three it gets elsewhere.
_RELEASED = {"unet", "structure", "semantic", "degradation", "teacher"}
_RELEASED |= {"depth", "segmentation", "clip"}
_ONLY_THERE = (
    "The released program has only systems of model.unet='released', priors.encoder='clip' and "
    "priors.cues of depth, segmentation and dog: train such a one (configs/tpgdiff_5d.py), or use "
    "these weights with this package (--mode=restore --checkpoint=FILE)."
)


@dataclasses.dataclass(frozen=True)
class Row:
    """What became of one part of one file."""

    file: str
    part: str
    loaded: int
    parameters: int
    left_out: str


def assemble(
    inputs: Sequence[str], output: str, config: ConfigDict, dtype: str = "float32"
) -> tuple[list[Row], list[str]]:
    """Convert files and write them as one published `.safetensors` with its JSON.

    Args:
      inputs: files and folders that `released.read` understands, and published ones.
      output: the `.safetensors` file to write; must not exist.
      config: what weights do not tell: heads of CLIP towers, size of the cue maps, the diffusion,
        names of the degradations.  What they do tell replaces its values.
      dtype: in which kernels are stored, see `published.save`.

    Returns:
      (what became of every part, what the user should know about the whole).

    Raises:
      UserError: a file that cannot be used, one part in two files, or an output that exists.
    """
    target = pathlib.Path(output)
    for taken in (target, target.with_suffix(".json")):
        if taken.exists():
            raise UserError(f"--output: {taken} exists already; choose another name.")
    config = config.copy_and_resolve_references().unlock()
    config.priors.encoder = "none"
    rows: list[Row] = []
    groups: dict[str, Any] = {}
    sources = []
    for path in map(str, map(local, inputs)):
        new = _published_groups(path, config, rows)
        if new is None:
            new = _released_groups(path, config, rows)
        if twice := sorted(groups.keys() & new.keys()):
            raise UserError(f"{path}: {', '.join(twice)} came from another input already.")
        groups |= new
        sources.append({"file": pathlib.Path(path).name, "groups": sorted(new)})
        if pathlib.Path(path).is_file():
            sources[-1]["sha256"] = file_sha256(path)
    remarks = _settle(config, groups)
    description = published.describe(config) | {"sources": sources}
    published.save(target, groups, description, dtype)
    return rows, remarks


def table(rows: Sequence[Row]) -> str:
    """Lay the rows out for people."""
    cells = [dataclasses.asdict(row) for row in rows]
    return tabulate.tabulate(cells, headers="keys", intfmt=",", disable_numparse=False)


def _published_groups(path: str, config: ConfigDict, rows: list[Row]) -> dict[str, Any] | None:
    """Return the groups of a published file, or None if it is another kind of file."""
    file = pathlib.Path(path)
    if file.suffix != ".safetensors" or not file.is_file() or not is_published(file):
        return None
    published.fingerprint(file)  # a damaged file must not go on under a new fingerprint
    description, groups = published.load(file)
    _take_over(published.described_config(description, file), groups, config)
    for name, group in groups.items():
        leaves = flatten_dict(group).values()
        rows.append(Row(file.name, name, len(leaves), sum(map(np.size, leaves)), "nothing"))
    return groups


def _take_over(was: ConfigDict, groups: Collection[str], config: ConfigDict) -> None:
    """Note in a configuration what a description says of these groups, and nothing else of it."""
    if "unet" in groups:
        for name in ("model", "diffusion"):
            config[name].update(was[name])
        config.eval.update({name: was.eval[name] for name in published.USE})
    for group in groups:
        config.priors.update({key: was.priors[key] for key in _TOLD.get(group, ())})
        if group in _CLASSIFYING:
            config.data.degradations = was.data.degradations


def _released_groups(path: str, config: ConfigDict, rows: list[Row]) -> dict[str, Any]:
    found, others = released.read(path)
    file = pathlib.Path(path).name
    groups: dict[str, Any] = {}
    for item in found:
        settings = item.config or _tower_settings(item.state_dict, config)
        try:
            converted = convert(item.state_dict, item.part, settings)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        new = _add_part(item.part, converted, config)
        if twice := sorted(groups.keys() & new.keys()):
            raise UserError(f"{path}: holds {', '.join(twice)} twice.")
        groups |= new
        count = sum(np.size(leaf) for leaf in flatten_dict(converted.params).values())
        reasons = [f"{number}: {reason}" for reason, number in converted.left_out.items()]
        rows.append(Row(file, item.part, converted.loaded, count, "; ".join(reasons) or "nothing"))
    if others:
        listed = ", ".join(f"{name} ({kind})" for name, kind in others.items())
        rows.append(Row(file, "not weights", 0, 0, listed))
    return groups


def _tower_settings(state_dict: Mapping[str, Any], config: ConfigDict) -> dict[str, Any] | None:
    """Say what a CLIP tower's weights do not tell, if the configuration is about such a tower."""
    sizes = config.priors.clip
    widths = {np.shape(v)[0] for k, v in state_dict.items() if k.endswith("conv1.weight")}
    if widths != {sizes.width}:
        return None
    return {"num_attention_heads": sizes.heads, "hidden_act": sizes.activation}


def _add_part(part: str, converted: Converted, config: ConfigDict) -> dict[str, Any]:
    """Note in the configuration what a part's weights tell; return its groups."""
    modules, params = converted.modules, converted.params
    groups = {
        "unet": config.model,
        "depth": config.priors.depth_net,
        "segmentation": config.priors.segmentation_net,
        "clip": config.priors.clip,
    }
    if part in groups:
        groups[part].update(_sizes_of(modules, groups[part]))
    elif part == "structure":
        config.priors.map_width = modules.encoder_width
        config.priors.map_max_width = modules.encoder_max_width
        config.priors.tokens = modules.num_latents
        config.priors.connector_depth = modules.connector_depth
        config.priors.cues = RELEASED_CUES
    else:
        config.priors.clip.update(_sizes_of(modules["student"], config.priors.clip))
        classes = modules["degradation"].num_classes
        if len(config.data.degradations) != classes:
            config.data.degradations = tuple(f"class_{index}" for index in range(classes))
        config.priors.encoder = "clip"
        return {
            "semantic": {"student": params["student"]},
            "degradation": params["degradation"],
            "teacher": params["teacher"],
        }
    return {part: params}


def _settle(config: ConfigDict, groups: Mapping[str, Any]) -> list[str]:
    """Describe a system that works with the groups at hand; return what it goes without."""
    if "unet" not in groups:
        return ["No UNet is among the inputs: the output serves as config.priors.weights."]
    remarks = []
    if "encoder" in groups:
        config.priors.encoder = "compact"
    model = config.model
    if config.priors.encoder == "none" and (model.use_degradation or model.use_semantic):
        remarks.append(
            "The UNet uses degradation and semantic vectors, but no input holds their networks "
            "(tpgd_ViT-B-32.pt): it will go without them."
        )
    if not model.use_structure:
        return remarks
    if "structure" not in groups:
        config.priors.cues = ()
        remarks.append(
            "The UNet uses structure, but no input holds its encoder ('SP' of universal-ir.pth): "
            "it will go without it."
        )
    lacking = [c for c in ("depth", "segmentation") if c in config.priors.cues and c not in groups]
    if lacking:
        config.priors.cues = tuple(c for c in config.priors.cues if c not in lacking)
        remarks.append(
            f"No input holds the {' and '.join(lacking)} network: the structural prior will go "
            f"without; cues are {', '.join(config.priors.cues)}."
        )
    return remarks


def export_released(source: str, folder: str) -> list[pathlib.Path]:
    """Write a published system as files that the released program reads.

    Args:
      source: a published `.safetensors` file.
      folder: where `universal-ir.pth` ({"G": UNet, "SP": structure}) and `tpgd.pt`
        ({"state_dict": stage one}) go, as far as the source holds them.

    Returns:
      the files written.

    Raises:
      UserError: PyTorch is not installed, a file exists already, or a part has no counterpart.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError("Writing .pth files needs PyTorch: pip install 'tpgdiff_jax[convert]'.")
    import torch

    _, groups = published.load(source)
    lacking = sorted({"semantic", "degradation"} - groups.keys())
    if lost := sorted(groups.keys() - _RELEASED):
        raise UserError(f"{source} holds {', '.join(lost)}. {_ONLY_THERE}")
    if len(lacking) == 1:
        raise UserError(f"{source} lacks {lacking[0]}; the released program has both or neither.")
    try:
        contents = _released_contents(groups)
    except UserError as error:
        raise UserError(f"{source}: {error} {_ONLY_THERE}") from error
    if not contents:
        raise UserError(f"{source} holds neither a UNet nor stage one's networks.")
    targets = [pathlib.Path(folder) / name for name in contents]
    if taken := [str(target) for target in targets if target.exists()]:
        raise UserError(f"{', '.join(taken)} exists already; choose another folder.")
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    for target, content in zip(targets, contents.values(), strict=True):
        tensors = {
            name: {k: torch.from_numpy(np.array(v)) for k, v in part.items()}
            for name, part in content.items()
        }
        with replacing(target) as temporary:
            torch.save(tensors, temporary)
    return targets


def _released_contents(groups: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return name of a file -> what it holds; UserError for what has no counterpart there."""
    contents: dict[str, Any] = {}
    if "unet" in groups:
        contents[UNET_FILE] = {"G": to_reference(groups["unet"], "unet")}
        if "structure" in groups:
            contents[UNET_FILE]["SP"] = to_reference(groups["structure"], "structure")
    if "semantic" in groups:
        stage_one = {**groups["semantic"], "degradation": groups["degradation"]}
        stage_one |= {"teacher": groups["teacher"]} if "teacher" in groups else {}
        contents[PRIORS_FILE] = {"state_dict": to_reference(stage_one, "priors")}
    return contents


def _sizes_of(network: nn.Module, group: ConfigDict) -> dict[str, Any]:
    """Return a network's sizes, as far as a group of the configuration names them."""
    names = {field.name for field in dataclasses.fields(network)} - {"dtype", "param_dtype"}
    return {name: getattr(network, name) for name in group if name in names}
