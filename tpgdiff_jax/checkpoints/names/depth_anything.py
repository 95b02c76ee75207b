"""Depth Anything as Hugging Face's transformers stores it: `DepthAnythingForDepthEstimation`."""

import math
import re
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.backbones.depth_anything import DepthAnything
from tpgdiff_jax.backbones.transformer import ACTIVATIONS
from tpgdiff_jax.checkpoints.layouts import EXPAND, POINTWISE, ROW, SAME, TOKEN
from tpgdiff_jax.checkpoints.names.settings import (
    axes,
    count,
    mapping,
    setting,
    whole_number,
    whole_numbers,
)
from tpgdiff_jax.checkpoints.names.tables import reader
from tpgdiff_jax.keys.checks import number, text, tuple_of
from tpgdiff_jax.reporting.errors import UserError

_LAYER = r"backbone.encoder.layer.\1"
_QKV = [rf"{_LAYER}.attention.attention.{name}" for name in ("query", "key", "value")]
_REASSEMBLE = r"neck.reassemble_stage.layers.\1"
_FUSION = r"neck.fusion_stage.layers.\1"
_TABLE = {
    r"trunk/class_token": (["backbone.embeddings.cls_token"], TOKEN),
    r"trunk/positions": (["backbone.embeddings.position_embeddings"], ROW),
    r"trunk/patches": (["backbone.embeddings.patch_embeddings.projection"], None),
    r"trunk/block_(\d+)/norm_attention": ([rf"{_LAYER}.norm1"], None),
    r"trunk/block_(\d+)/attention/qkv": (_QKV, None),
    r"trunk/block_(\d+)/attention/out": ([rf"{_LAYER}.attention.output.dense"], None),
    r"trunk/block_(\d+)/scale_attention": ([rf"{_LAYER}.layer_scale1.lambda1"], SAME),
    r"trunk/block_(\d+)/norm_mlp": ([rf"{_LAYER}.norm2"], None),
    r"trunk/block_(\d+)/mlp/dense_in": ([rf"{_LAYER}.mlp.fc1"], None),
    r"trunk/block_(\d+)/mlp/dense_out": ([rf"{_LAYER}.mlp.fc2"], None),
    r"trunk/block_(\d+)/scale_mlp": ([rf"{_LAYER}.layer_scale2.lambda1"], SAME),
    r"norm_last": (["backbone.layernorm"], None),
    r"reassemble_(\d+)/proj": ([rf"{_REASSEMBLE}.projection"], POINTWISE),
    r"reassemble_(\d+)/expand": ([rf"{_REASSEMBLE}.resize"], EXPAND),
    r"reassemble_(\d+)/shrink": ([rf"{_REASSEMBLE}.resize"], None),
    r"neck_(\d+)": ([r"neck.convs.\1"], None),
    r"fusion_(\d+)_skip/conv_in": ([rf"{_FUSION}.residual_layer1.convolution1"], None),
    r"fusion_(\d+)_skip/conv_out": ([rf"{_FUSION}.residual_layer1.convolution2"], None),
    r"fusion_(\d+)_refine/conv_in": ([rf"{_FUSION}.residual_layer2.convolution1"], None),
    r"fusion_(\d+)_refine/conv_out": ([rf"{_FUSION}.residual_layer2.convolution2"], None),
    r"fusion_(\d+)_proj": ([rf"{_FUSION}.projection"], POINTWISE),
    r"head_conv": (["head.conv1"], None),
    r"head_hidden": (["head.conv2"], None),
    r"head_depth": (["head.conv3"], POINTWISE),
}

LEFT_OUT: tuple[tuple[str, str], ...] = (
    (r"backbone\.embeddings\.mask_token", "stands for hidden patches, in training only"),
    (
        r"neck\.fusion_stage\.layers\.0\.residual_layer1\..*",
        "the first fusion has nothing to add to, so its program never calls this layer",
    ),
)

_PATCHES = "backbone.embeddings.patch_embeddings.projection.weight"
_POSITIONS = "backbone.embeddings.position_embeddings"
_NECK = "neck.convs.0.weight"
_HEAD = "head.conv2.weight"
# Settings that our module has no field for; every published relative-depth model agrees.
_FIXED_TRUNK = {
    "model_type": "dinov2",
    "use_swiglu_ffn": False,
    "mlp_ratio": 4,
    "qkv_bias": True,
    "layer_norm_eps": 1e-6,
    "apply_layernorm": True,
}
_FIXED = {"model_type": "depth_anything", "depth_estimation_type": "relative"}

sources = reader(_TABLE)


def module_for(
    state_dict_shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None = None
) -> DepthAnything:
    """Build the network, without weights, that a file describes.

    Args:
      state_dict_shapes: name -> shape of each array in the file.
      config: contents of the `config.json` beside it.  Without, heads are 64 channels wide, the
        last blocks are tapped, and a network for metric depth is taken for one for relative depth.

    Returns:
      the module.

    Raises:
      UserError: another architecture; the message names what differs.
    """
    shapes, config = state_dict_shapes, config or {}
    trunk = mapping(config, "backbone_config")
    _check_settings("config", config, _FIXED)
    _check_settings("backbone_config", trunk, _FIXED_TRUNK)
    _check_keys(shapes)
    width, _, patch, _ = axes(shapes, _PATCHES, 4)
    layers = count(shapes, r"backbone\.encoder\.layer\.(\d+)\.")
    neck = count(shapes, r"neck\.convs\.(\d+)\.")
    activation = trunk.get("hidden_act", "gelu")
    if activation not in tuple(ACTIVATIONS):
        raise UserError(f"backbone_config: hidden_act={activation!r} is not supported.")
    if config.get("head_in_index", -1) not in (-1, neck - 1):
        raise UserError(f"config: head_in_index={config['head_in_index']} is not the last map.")
    taps = _taps(trunk, layers) or tuple(range(layers - neck + 1, layers + 1))
    if len(taps) != neck or min(taps, default=0) < 1:
        raise UserError(f"Blocks {taps} of the trunk cannot feed a neck of {neck} maps.")
    own_factors = [_factor(shapes, i) for i in range(neck)]
    factors = setting(config, "reassemble_factors", tuple_of(number(above=0)), own_factors)
    return DepthAnything(
        patch=patch,
        width=width,
        layers=layers,
        heads=whole_number(trunk, "num_attention_heads", max(width // 64, 1)),
        image_size=patch * math.isqrt(axes(shapes, _POSITIONS, 3)[1] - 1),
        taps=taps,
        neck=tuple(axes(shapes, f"neck.convs.{i}.weight", 4)[1] for i in range(neck)),
        factors=tuple(factors or own_factors),
        fusion=axes(shapes, _NECK, 4)[0],
        head=axes(shapes, _HEAD, 4)[0],
        activation=activation,
    )


def _check_settings(where, settings, fixed):
    for name, value in fixed.items():
        if (found := settings.get(name, value)) != value:
            raise UserError(f"{where}: {name}={found!r} is not supported, only {value!r}.")


def _check_keys(shapes):
    if missing := [key for key in (_PATCHES, _POSITIONS, _NECK, _HEAD) if key not in shapes]:
        some = ", ".join(sorted(shapes)[:5]) or "none at all"
        raise UserError(
            f"This is no Depth Anything file: it lacks {', '.join(missing)}. First keys: {some}."
        )
    for pattern, what in (
        (r"\.mlp\.(weights_in|gate_proj)\.", "a gated feed-forward layer (swiglu)"),
        (r"\.register_tokens$", "register tokens"),
    ):
        if key := next((key for key in shapes if re.search(pattern, key)), None):
            raise UserError(f"The trunk has {what}, which is not supported: {key}.")
    patches = axes(shapes, _POSITIONS, 3)[1] - 1
    if math.isqrt(patches) ** 2 != patches:
        raise UserError(f"{_POSITIONS} holds {patches} patches, which are no square.")


def _taps(trunk, layers):
    """Return the blocks a configuration taps; names win over numbers, which may be negative."""
    if names := setting(trunk, "out_features", tuple_of(text())):
        stages = ["stem", *(f"stage{i}" for i in range(1, layers + 1))]
        if unknown := set(names) - set(stages):
            raise UserError(f"backbone_config: out_features {sorted(unknown)} do not exist.")
        return tuple(sorted(map(stages.index, names)))
    indices = whole_numbers(trunk, "out_indices", (), least=-layers)
    return tuple(sorted(i % (layers + 1) for i in indices))


def _factor(shapes, index):
    """Tell a map's enlargement from its kernel: 3x3 ones only occur where it is halved."""
    shape = shapes.get(f"neck.reassemble_stage.layers.{index}.resize.weight")
    if shape is None:
        return 1
    shape = axes(shapes, f"neck.reassemble_stage.layers.{index}.resize.weight", 4)
    return 0.5 if shape[-1] == 3 else shape[-1]
