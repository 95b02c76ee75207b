"""Names of the UNet's parameters in the released program's files."""

import re
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.checkpoints.layouts import GAIN, POINTWISE, Source, standard_layout
from tpgdiff_jax.checkpoints.names.settings import axes, count
from tpgdiff_jax.models.unet import ConditionalUNet
from tpgdiff_jax.reporting.errors import UserError

# Our submodule -> the released program's, inside a residual block.
_BLOCK = {
    "modulation": "mlp.1",
    "conv_in": "block1.proj",
    "conv_out": "block2.proj",
    "skip": "res_conv",
}
_FILM = {"norm": "mlp.0", "modulation": "mlp.1"}
_TRANSFORMER = "fn.fn.transformer_blocks.0"
_ATTENTION = {
    "norm": "fn.norm",
    "attention/qkv": "fn.fn.to_qkv",
    "attention/out": "fn.fn.to_out.0",
    "attention/norm": "fn.fn.to_out.1",
    "attention/group_norm": "fn.fn.norm",
    "attention/proj_in": "fn.fn.proj_in",
    "attention/proj_out": "fn.fn.proj_out",
    "attention/norm_self": f"{_TRANSFORMER}.norm1",
    "attention/norm_cross": f"{_TRANSFORMER}.norm2",
    "attention/norm_feed": f"{_TRANSFORMER}.norm3",
    "attention/feed_forward/proj_in": f"{_TRANSFORMER}.ff.net.0.proj",
    "attention/feed_forward/proj_out": f"{_TRANSFORMER}.ff.net.2",
    **{
        f"attention/{ours}/{name}": f"{_TRANSFORMER}.{theirs}.to_{name}" + ".0" * (name == "out")
        for ours, theirs in (("self_attention", "attn1"), ("cross_attention", "attn2"))
        for name in ("q", "k", "v", "out")
    },
}
_TOP = {
    "stem": "init_conv",
    "final_conv": "final_conv",
    "time_embedding/dense_in": "time_mlp.1",
    "time_embedding/dense_out": "time_mlp.3",
    "degradation/dense_in": "text_mlp.0",
    "degradation/dense_out": "text_mlp.2",
    "degradation/prompt_out": "prompt_mlp",
}
_POINTWISE = re.compile(
    r"(res_conv|to_qkv|fn\.fn\.to_out\.0|fn\.fn\.proj_in|fn\.fn\.proj_out)\.weight$"
)


def module_for(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None = None
) -> ConditionalUNet:
    """Build the UNet, without weights, that a released file describes.

    Args:
      shapes: name -> shape of each array in the file.
      config: not used; there is none beside such files.

    Returns:
      a `ConditionalUNet` with the file's widths, levels and priors.

    Raises:
      UserError: the file lacks the keys that tell the widths, so it is no UNet of this kind.
    """
    del config
    levels = count(shapes, r"downs\.(\d+)\.")
    if "init_conv.weight" not in shapes or not levels:
        some = ", ".join(sorted(shapes)[:5]) or "none at all"
        raise UserError(
            "This is no UNet of the released program: its key 'init_conv.weight' or all of "
            f"'downs.*' are missing. First keys found: {some}."
        )
    width = axes(shapes, "init_conv.weight", 4)[0]

    def multiplier(level):
        last = f"downs.{level}.3.weight"
        return 2**level if last not in shapes else axes(shapes, last, 4)[0] // width

    def has(pattern):
        return any(re.search(pattern, key) for key in shapes)

    return ConditionalUNet(
        width=width,
        multipliers=tuple(multiplier(level) for level in range(levels)),
        use_degradation=has(r"^(prompt|text_mlp|prompt_mlp)\b"),
        use_semantic=has(r"\.transformer_blocks\."),
        use_structure=has(r"^struct_adapters_"),
    )


def sources(ndims: Mapping[tuple[str, ...], int]) -> dict[tuple[str, ...], Source]:
    """Tell where each parameter of a UNet stands in a released file.

    Args:
      ndims: path of each of our parameters -> its number of axes.

    Raises:
      UserError: a parameter has no counterpart.
    """
    levels = (re.match(r"down_(\d+)_", path[0]) for path in ndims)
    depth = 1 + max((int(match.group(1)) for match in levels if match), default=0)
    return {path: _source(path, ndim, depth) for path, ndim in ndims.items()}


def _source(path: tuple[str, ...], ndim: int, depth: int) -> Source:
    """Translate one parameter path, e.g. ("down_0_block_0", "conv_in", "kernel")."""
    *modules, leaf = path
    name = "/".join(modules)
    if path == ("degradation", "prompt"):
        return Source(("prompt",), standard_layout(leaf, ndim))
    theirs = _TOP.get(name) or _stage_name(modules, depth)
    if theirs is None:
        raise UserError(f"Parameter {'/'.join(path)} has no name in the released program.")
    if leaf == "scale" and theirs.endswith(("fn.norm", "to_out.1")) and modules[-1] == "norm":
        return Source((f"{theirs}.g",), GAIN)
    key = f"{theirs}.{'bias' if leaf == 'bias' else 'weight'}"
    layout = POINTWISE if _POINTWISE.search(key) else standard_layout(leaf, ndim)
    return Source((key,), layout)


def _stage_name(modules: list[str], depth: int) -> str | None:
    stage, inner = modules[0], "/".join(modules[1:])
    if match := re.fullmatch(r"(down|up)_(\d+)_(block_[01]|attention|film|resample)", stage):
        side, level, kind = match.group(1), int(match.group(2)), match.group(3)
        index = level if side == "down" else depth - 1 - level
        if kind == "film":
            return _join(f"struct_adapters_{side}.{index}", _FILM.get(inner))
        prefix = f"{side}s.{index}"
        if kind == "attention":
            return _join(f"{prefix}.2", _ATTENTION.get(inner))
        if kind == "resample":
            return f"{prefix}.3.1" if side == "up" and inner == "conv" else f"{prefix}.3"
        return _join(f"{prefix}.{kind[-1]}", _BLOCK.get(inner))
    if stage == "middle_attention":
        return _join("mid_attn", _ATTENTION.get(inner))
    if stage == "final_block":
        return _join("final_res_block", _BLOCK.get(inner))
    if match := re.fullmatch(r"middle_block_([01])", stage):
        return _join(f"mid_block{int(match.group(1)) + 1}", _BLOCK.get(inner))
    return None


def _join(prefix: str, inner: str | None) -> str | None:
    return None if inner is None else f"{prefix}.{inner}"
