"""Convert weights of the released PyTorch program to our parameters, and back.

One table of names per part serves both directions.  What a file must hold is not written down
anywhere: it follows from our own module's parameter shapes, so nothing can be dropped silently.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tpgdiff_jax.models.unet import ConditionalUNet

PARTS = ("unet",)

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


def from_reference(state_dict: Mapping[str, np.ndarray], part: str) -> dict[str, Any]:
    """Convert a PyTorch state dict of the released program to our parameters.

    Args:
      state_dict: name -> array in PyTorch's layout (OIHW convolutions, [out, in] linears).
      part: which network it is, one of `PARTS`.

    Returns:
      nested dict of numpy arrays, to be used as `apply({"params": params}, ...)`.

    Raises:
      ValueError: an unknown part, or missing, unexpected or misshapen keys, all of them listed.
    """
    _check_part(part)
    model = unet_for(state_dict)
    names = reference_names(model)
    shapes = flatten_dict(_abstract_params(model))
    expected = {key: _to_torch_shape(key, shapes[path].shape) for path, key in names.items()}
    _check_keys(part, state_dict, expected)
    flat = {path: _from_torch(key, np.asarray(state_dict[key])) for path, key in names.items()}
    return unflatten_dict(flat)


def to_reference(params: Mapping[str, Any], part: str) -> dict[str, np.ndarray]:
    """Convert our parameters to the released program's state dict, the inverse of `from_reference`.

    Args:
      params: nested dict of our parameters.
      part: one of `PARTS`.

    Returns:
      name -> numpy array in PyTorch's layout.

    Raises:
      ValueError: an unknown part, or a parameter that has no counterpart.
    """
    _check_part(part)
    flat = flatten_dict(params)
    depth = 1 + max(
        (int(m.group(1)) for path in flat if (m := re.match(r"down_(\d+)_", path[0]))), default=0
    )
    return {
        (key := _unet_name(path, depth)): _to_torch(key, np.asarray(value))
        for path, value in flat.items()
    }


def unet_for(state_dict: Mapping[str, np.ndarray]) -> ConditionalUNet:
    """Build the UNet, without weights, whose shape a released state dict describes.

    Args:
      state_dict: name -> array (only names and shapes are read).

    Returns:
      a `ConditionalUNet` with the file's widths, levels and priors.

    Raises:
      ValueError: the file lacks the keys that tell the widths, so it is no UNet of this kind.
    """
    levels = [int(m.group(1)) for k in state_dict if (m := re.match(r"downs\.(\d+)\.", k))]
    if "init_conv.weight" not in state_dict or not levels:
        some = ", ".join(sorted(state_dict)[:5]) or "none at all"
        raise ValueError(
            "This is no UNet of the released program: its key 'init_conv.weight' or all of "
            f"'downs.*' are missing. First keys found: {some}."
        )
    width = state_dict["init_conv.weight"].shape[0]

    def multiplier(level):
        last = state_dict.get(f"downs.{level}.3.weight")
        return 2**level if last is None else last.shape[0] // width

    def has(pattern):
        return any(re.search(pattern, key) for key in state_dict)

    return ConditionalUNet(
        width=width,
        multipliers=tuple(multiplier(level) for level in range(max(levels) + 1)),
        use_degradation=has(r"^(prompt|text_mlp|prompt_mlp)\b"),
        use_semantic=has(r"\.transformer_blocks\."),
        use_structure=has(r"^struct_adapters_"),
    )


def reference_names(model: ConditionalUNet) -> dict[tuple[str, ...], str]:
    """Map the path of each of a UNet's parameters to its name in the released program."""
    depth = len(model.multipliers)
    return {path: _unet_name(path, depth) for path in flatten_dict(_abstract_params(model))}


def _abstract_params(model: ConditionalUNet):
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image, image, time)["params"]


def _unet_name(path: tuple[str, ...], depth: int) -> str:
    """Translate one parameter path, e.g. ("down_0_block_0", "conv_in", "kernel")."""
    *modules, leaf = path
    name = "/".join(modules)
    if path == ("degradation", "prompt"):
        return "prompt"
    theirs = _TOP.get(name) or _stage_name(modules, depth)
    if theirs is None:
        raise ValueError(f"Parameter {'/'.join(path)} has no name in the released program.")
    gain = leaf == "scale" and theirs.endswith(("fn.norm", "to_out.1")) and modules[-1] == "norm"
    return f"{theirs}.{'g' if gain else 'bias' if leaf == 'bias' else 'weight'}"


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


def _from_torch(key: str, value: np.ndarray) -> np.ndarray:
    """Lay a PyTorch array out as ours: HWIO convolutions, [in, out] matrices, flat gains."""
    if key.endswith(".g"):
        return value.reshape(-1)
    if _POINTWISE.search(key):
        return value[:, :, 0, 0].T
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 and key.endswith("weight") else value


def _to_torch(key: str, value: np.ndarray) -> np.ndarray:
    if key.endswith(".g"):
        return value.reshape(1, -1, 1, 1)
    if _POINTWISE.search(key):
        return value.T[:, :, None, None]
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T if value.ndim == 2 and key.endswith("weight") else value


def _to_torch_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_torch(key, np.broadcast_to(np.float32(0), shape)).shape


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise ValueError(f"part={part!r} is unknown; expected one of {', '.join(PARTS)}.")


def _check_keys(
    part: str, found: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise one ValueError that lists every missing, unexpected and misshapen key."""

    def shape_error(key):
        return f"{key}: {tuple(np.shape(found[key]))}, expected {expected[key]}"

    shared = expected.keys() & found.keys()
    wrong = [k for k in shared if tuple(np.shape(found[k])) != expected[k]]
    problems = _listing("missing", expected.keys() - found.keys())
    problems += _listing("unexpected", found.keys() - expected.keys())
    problems += _listing("misshapen", wrong, shape_error)
    if problems:
        raise ValueError(
            f"The state dict does not fit part {part!r} ({len(shared) - len(wrong)} of "
            f"{len(expected)} keys fit):" + "".join(problems)
        )


def _listing(title: str, keys: Iterable[str], describe: Callable[[str], str] = str) -> str:
    keys = sorted(keys)
    return f"\n  {len(keys)} {title}: " + "; ".join(map(describe, keys)) if keys else ""
