"""Names of CLIP's image tower in open_clip's, Hugging Face's and the released program's files.

All are read in open_clip's naming of the bare tower; `canonical` turns the others into it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tpgdiff_jax.backbones.transformer import ACTIVATIONS
from tpgdiff_jax.backbones.vit import ClipImageTower
from tpgdiff_jax.checkpoints.layouts import MATRIX, SAME
from tpgdiff_jax.checkpoints.names.settings import axes, count, mapping, setting, whole_number
from tpgdiff_jax.checkpoints.names.tables import reader
from tpgdiff_jax.keys.checks import one_of
from tpgdiff_jax.reporting.errors import UserError

_BLOCK = r"transformer.resblocks.\1"
_OURS = r"trunk/block_(\d+)"
_TABLE = {
    r"trunk/class_token": (["class_embedding"], SAME),
    r"trunk/positions": (["positional_embedding"], SAME),
    r"trunk/patches": (["conv1"], None),
    r"trunk/norm_first": (["ln_pre"], None),
    rf"{_OURS}/norm_attention": ([rf"{_BLOCK}.ln_1"], None),
    rf"{_OURS}/attention/qkv/kernel": ([rf"{_BLOCK}.attn.in_proj_weight"], MATRIX),
    rf"{_OURS}/attention/qkv/bias": ([rf"{_BLOCK}.attn.in_proj_bias"], SAME),
    rf"{_OURS}/attention/out": ([rf"{_BLOCK}.attn.out_proj"], None),
    rf"{_OURS}/norm_mlp": ([rf"{_BLOCK}.ln_2"], None),
    rf"{_OURS}/mlp/dense_in": ([rf"{_BLOCK}.mlp.c_fc"], None),
    rf"{_OURS}/mlp/dense_out": ([rf"{_BLOCK}.mlp.c_proj"], None),
    r"norm_last": (["ln_post"], None),
    r"proj/kernel": (["proj"], SAME),
}
_HUGGING_FACE = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "pre_layrnorm": "ln_pre",
    "post_layernorm": "ln_post",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}

# Keys of whole CLIP files that an image tower does not need.
LEFT_OUT = (
    (r"text_model\.|text_projection|token_embedding\.|ln_final\.|text\.", "text tower"),
    (r"logit_scale|logit_bias", "temperature of CLIP's loss"),
    (r".*position_ids$", "row numbers, no weights"),
)
_OPEN_CLIP_TEXT = r"transformer\.|positional_embedding$|attn_mask$"


def needless(key: str, keys: Mapping[str, Any]) -> str | None:
    """Return why a key of a CLIP file is not needed, or None if it is (or is unknown)."""
    for pattern, reason in LEFT_OUT:
        if re.match(pattern, key):
            return reason
    # In a whole open_clip file the image tower's names begin with "visual.", the text tower's
    # with nothing; in a file of the tower alone the same names are the image tower's.
    whole = any(name.startswith("visual.") for name in keys)
    return "text tower" if whole and re.match(_OPEN_CLIP_TEXT, key) else None


def canonical(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename the keys of any supported CLIP file to open_clip's names of the bare tower.

    Hugging Face's separate q, k and v are joined, as open_clip has them; unknown keys stay.
    """
    renamed: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, value in state_dict.items():
        bare = key.removeprefix("visual.")
        if key == "visual_projection.weight":
            renamed["proj"] = np.asarray(value).T
        elif key.startswith("vision_model."):
            _rename_hugging_face(key.removeprefix("vision_model."), value, renamed, parts)
        else:
            renamed[bare] = value
    for key, three in parts.items():
        if len(three) == 3:
            renamed[key] = np.concatenate([three[name] for name in "qkv"])
        else:  # reported as unexpected under their own names, the joint one as missing
            block, kind = key.split("attn.in_proj_")
            renamed |= {f"{block}self_attn.{name}_proj.{kind}": v for name, v in three.items()}
    return renamed


def _rename_hugging_face(key, value, renamed, parts):
    key = re.sub(r"^encoder\.layers\.", "transformer.resblocks.", key)
    if match := re.fullmatch(r"(.*)self_attn\.([qkv])_proj\.(weight|bias)", key):
        joint = f"{match.group(1)}attn.in_proj_{match.group(3)}"
        parts.setdefault(joint, {})[match.group(2)] = value
        return
    for theirs, ours in _HUGGING_FACE.items():
        key = re.sub(rf"(^|\.){re.escape(theirs)}(\.|$)", rf"\g<1>{ours}\g<2>", key)
    renamed[key] = value


def module_for(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None = None
) -> ClipImageTower:
    """Build the tower, without weights, that a file describes.

    Args:
      shapes: canonical name -> shape of each array in the file.
      config: Hugging Face's config.json of the model, where there is one; else heads are 64 wide
        and the activation is `gelu`.

    Raises:
      UserError: the file lacks the keys that tell the sizes, so it is no CLIP image tower.
    """
    needed = ("conv1.weight", "positional_embedding", "proj")
    missing = [key for key in needed if key not in shapes]
    if missing:
        some = ", ".join(sorted(shapes)[:5]) or "none at all"
        raise UserError(
            f"This is no CLIP image tower: its keys {', '.join(missing)} are missing. "
            f"First keys found: {some}."
        )
    width, _, patch, _ = axes(shapes, "conv1.weight", 4)
    config = config or {}
    vision = mapping(config, "vision_config") if "vision_config" in config else config
    grid = math.isqrt(axes(shapes, "positional_embedding", 2)[0] - 1)
    return ClipImageTower(
        patch=patch,
        width=width,
        layers=count(shapes, r"transformer\.resblocks\.(\d+)\."),
        heads=whole_number(vision, "num_attention_heads", max(1, width // 64)),
        image_size=grid * patch,
        features=axes(shapes, "proj", 2)[1],
        activation=setting(vision, "hidden_act", one_of(ACTIVATIONS), "gelu"),
    )


sources = reader(_TABLE)
