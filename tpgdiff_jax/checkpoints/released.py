"""Read weight files of the PyTorch world, and tell which part of the system each one holds.

Understood are the released program's `universal-ir.pth`, `EMA_latest.pth` and `tpgd_ViT-B-32.pt`,
bare state dicts, open_clip's files, and Hugging Face folders of CLIP, Depth Anything and SegFormer.
Pickles are read with PyTorch's weights-only loader; what asks to run code is refused by name.
"""

import argparse
import dataclasses
import importlib.util
import json
import pathlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from tpgdiff_jax.reporting.errors import UserError

_DEPTH_PREFIX = "depth_extractor.model."
_SEGMENTATION_PREFIX = "seg_extractor.model."

# A part is known by a key that begins like this.
_SIGNATURES = (
    ("unet", r"init_conv\.|downs\.\d"),
    ("structure", r"struct_encoder\.|modality_embed|depth_extractor\.|seg_extractor\."),
    ("priors", r"deg_backbone\.|deg_head\.|student\."),
    ("depth", r"backbone\.embeddings\.|neck\.reassemble_stage\."),
    ("segmentation", r"segformer\.|decode_head\."),
    ("clip", r"visual\.conv1\.|vision_model\.|class_embedding$"),
)
_MODEL_TYPES = {
    "depth_anything": "depth",
    "segformer": "segmentation",
    "clip": "clip",
    "clip_vision_model": "clip",
}
_WEIGHT_FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)


@dataclasses.dataclass(frozen=True)
class Found:
    """One part in a file.

    Attributes:
      part: one of `convert.PARTS`.
      state_dict: name -> array, in PyTorch's layout and its own naming.
      config: contents of a config.json beside it, or None.
    """

    part: str
    state_dict: dict[str, np.ndarray]
    config: dict[str, Any] | None = None


def read(path: str | pathlib.Path) -> tuple[list[Found], dict[str, str]]:
    """Read a file or a Hugging Face folder.

    Args:
      path: a `.pth`, `.pt`, `.bin` or `.safetensors` file, or a folder with a config.json.

    Returns:
      (the parts it holds, what else stood in the file: name -> what it is).

    Raises:
      UserError: nothing there, a damaged file, a pickle that wants to run code, or weights of
        no known part; names the file and what to do.
    """
    path = pathlib.Path(path)
    config = None
    if path.is_dir():
        path, config = _folder(path)
    elif not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    groups, others = _groups(content)
    found = []
    for name, state_dict in groups.items():
        found += _parts(path, name, _without_module(state_dict), config)
    if not found:
        raise UserError(f"{path} holds no weights.")
    return found, others


def _folder(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """Return the weight file of a Hugging Face folder, and its settings."""
    for name in ("config.json", "open_clip_config.json"):
        if (folder / name).is_file():
            break
    else:
        raise UserError(f"{folder} holds no config.json, so it is no Hugging Face model folder.")
    try:
        config = json.loads((folder / name).read_text())
    except ValueError as error:
        raise UserError(f"{folder / name} is no JSON: {error}.") from error
    if name == "open_clip_config.json":
        config = _open_clip_settings(config)
    elif config.get("model_type") not in _MODEL_TYPES:
        raise UserError(
            f"{folder / name}: model_type={config.get('model_type')!r} is not supported; expected "
            f"one of {', '.join(_MODEL_TYPES)}."
        )
    for weights in _WEIGHT_FILES:
        if (folder / weights).is_file():
            return folder / weights, config
    raise UserError(f"{folder} holds none of {', '.join(_WEIGHT_FILES)}.")


def _open_clip_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Say in Hugging Face's words what open_clip's settings say."""
    model = config.get("model_cfg", config)
    vision = model.get("vision_cfg", {})
    settings = {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu"}
    if "width" in vision:
        settings["num_attention_heads"] = vision["width"] // vision.get("head_width", 64)
    return {"model_type": "clip", "vision_config": settings}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged or no .safetensors file: {error}.") from error


def _read_pickle(path: pathlib.Path) -> Any:
    """Read a PyTorch file without running any code that it may carry."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{path} is a PyTorch file, and reading it needs PyTorch: "
            "pip install 'tpgdiff_jax[convert]'. (.safetensors files need nothing.)"
        )
    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore", UserWarning)  # of unusual protocols, for its developers
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError) as error:
        asked = _foreign_names(path)
        if isinstance(error, pickle.UnpicklingError) and asked:
            raise UserError(
                f"{path} is refused: it asks for {', '.join(asked)}, which is code and no weights. "
                "If you trust where it comes from, save its state dict alone and convert that."
            ) from error
        raise UserError(f"{path} is damaged, or no PyTorch file.") from error


def _harmless() -> list[Any]:
    """Return what training programs store beside weights: NumPy's numbers, parsed arguments."""
    number_types = [type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64")]
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    old_name = (scalar, "numpy.core.multiarray.scalar")
    return [scalar, old_name, np.dtype, *number_types, argparse.Namespace]


def _foreign_names(path: pathlib.Path) -> list[str]:
    """List what a pickle asks for beyond PyTorch's and Python's own containers, running nothing."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                data = archive.read(name)
        else:
            data = path.read_bytes()
        asked, strings = [], []
        for operation, argument, _ in pickletools.genops(data):
            if operation.name == "GLOBAL":
                asked.append(argument.replace(" ", "."))
            elif operation.name == "STACK_GLOBAL":
                asked.append(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except (ValueError, StopIteration, OSError, zipfile.BadZipFile):
        return []  # no pickle at all: damaged
    own = ("torch.", "collections.")
    return [name for name in dict.fromkeys(asked) if not name.startswith(own)]


def _groups(content: Any) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, str]]:
    """Separate a file's state dicts from whatever else it holds."""
    if not isinstance(content, Mapping):
        return {}, {"the file": type(content).__name__}
    groups: dict[str, dict[str, np.ndarray]] = {}
    others: dict[str, str] = {}
    for name, value in content.items():
        if _is_array(value):
            groups.setdefault("", {})[str(name)] = _array(value)
        elif isinstance(value, Mapping) and any(map(_is_array, value.values())):
            groups[str(name)] = {str(k): _array(v) for k, v in value.items() if _is_array(v)}
            strangers = {k: v for k, v in value.items() if not _is_array(v)}
            others |= {f"{name}.{k}": type(v).__name__ for k, v in strangers.items()}
        else:
            others[str(name)] = type(value).__name__
    return groups, others


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "detach")


def _array(value: Any) -> np.ndarray:
    """Return a numpy array of a numpy array or a tensor; 16-bit floats become 32-bit."""
    if isinstance(value, np.ndarray):
        return value
    value = value.detach()
    return (value.float() if value.is_floating_point() else value).numpy()


def _without_module(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Take off the "module." that PyTorch's data parallelism puts before every name."""
    return {key.removeprefix("module."): value for key, value in state_dict.items()}


def _parts(path, name, state_dict, config) -> list[Found]:
    part = _recognise(state_dict)
    if part is None:
        inside = f" ({name!r})" if name else ""
        some = ", ".join(sorted(state_dict)[:5])
        raise UserError(
            f"{path}{inside} holds weights of no known part; parts are "
            f"{', '.join(name for name, _ in _SIGNATURES)}. First keys: {some}."
        )
    if config is not None and _MODEL_TYPES[config["model_type"]] != part:
        raise UserError(
            f"{path} holds weights of {part!r}, but the config.json beside it says "
            f"model_type={config['model_type']!r}."
        )
    if part != "structure":
        return [Found(part, state_dict, config)]
    # The released program keeps the two networks inside its structural prior.
    split = {"structure": {}, "depth": {}, "segmentation": {}}
    for key, value in state_dict.items():
        if key.startswith(_DEPTH_PREFIX):
            split["depth"][key.removeprefix(_DEPTH_PREFIX)] = value
        elif key.startswith(_SEGMENTATION_PREFIX):
            split["segmentation"][key.removeprefix(_SEGMENTATION_PREFIX)] = value
        else:
            split["structure"][key] = value
    return [Found(part, weights) for part, weights in split.items() if weights]


def _recognise(state_dict: Mapping[str, np.ndarray]) -> str | None:
    for part, pattern in _SIGNATURES:
        if any(re.match(pattern, key) for key in state_dict):
            return part
    return None
