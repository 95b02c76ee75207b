"""Read weight files of the PyTorch world, and tell which part of the system each one holds.

Understood are the released program's `universal-ir.pth`, `EMA_latest.pth` and `tpgd_ViT-B-32.pt`,
bare state dicts, open_clip's files, and Hugging Face folders of CLIP, Depth Anything and SegFormer.
Pickles are read by `pickles.py`, which runs none of them.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from tpgdiff_jax.checkpoints.names.settings import mapping, whole_number
from tpgdiff_jax.checkpoints.pickles import MOST_UNPACKED, read_pickle
from tpgdiff_jax.reporting import json_text
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
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    _check_claims(path, content)
    try:
        groups, others = _groups(content)
    except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse, quantised, no data
        what = str(error).partition("\n")[0]
        raise UserError(f"{path}: its tensors are of a kind that is not read ({what}).") from error
    found = []
    for name, state_dict in groups.items():
        # PyTorch's data parallelism puts "module." before every name.
        bare = {key.removeprefix("module."): value for key, value in state_dict.items()}
        found += _parts(path, name, bare, config)
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
    config = json_text.read_object(folder / name, "download it anew")
    if name == "open_clip_config.json":
        config = _open_clip_settings(config)
    elif config.get("model_type") not in tuple(_MODEL_TYPES):
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
    model = mapping(config, "model_cfg") if "model_cfg" in config else config
    vision = mapping(model, "vision_cfg")
    settings: dict[str, Any] = {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu"}
    if vision.get("width") is not None:
        width, each = whole_number(vision, "width"), whole_number(vision, "head_width", 64)
        settings["num_attention_heads"] = max(1, width // each)
    return {"model_type": "clip", "vision_config": settings}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except AttributeError as error:  # NumPy has no such numbers
        raise UserError(f"{path} holds numbers of a kind that is not read ({error}).") from error
    except (safetensors.SafetensorError, ValueError, LookupError) as error:
        raise UserError(f"{path} is damaged or no .safetensors file: {error}.") from error


def _check_claims(path: pathlib.Path, content: Any) -> None:
    """Raise UserError where tensors claim more values than the file can hold: steps of 0."""
    values = list(content.values()) if isinstance(content, Mapping) else []
    for group in [value for value in values if isinstance(value, Mapping)]:
        values += group.values()
    claimed = sum(value.nbytes for value in values if _is_array(value))
    size = path.stat().st_size
    if claimed > MOST_UNPACKED * size:  # some share their storage
        raise UserError(
            f"{path} is refused: it has {size:,} bytes, and its tensors claim {claimed:,}; get it "
            "again, or save its state dict anew."
        )


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


def _parts(path, name, state_dict, config) -> list[Found]:
    known = (p for p, start in _SIGNATURES if any(re.match(start, key) for key in state_dict))
    part = next(known, None)
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
