"""Convert weights of PyTorch programs to our parameters, and back.

One table of names per part (`names/`) serves both directions.  What a file must hold is not
written down anywhere: it follows from our own modules' parameter shapes, so nothing can be dropped
silently.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from tpgdiff_jax.checkpoints.layouts import Source
from tpgdiff_jax.checkpoints.names import clip, depth_anything, priors, segformer, structure, unet
from tpgdiff_jax.checkpoints.shapes import possible_params
from tpgdiff_jax.models.unet import ConditionalUNet
from tpgdiff_jax.reporting.errors import UserError, require_known

Modules = nn.Module | dict[str, nn.Module]
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Part:
    """How one kind of file is read.

    Attributes:
      modules_for: (shapes by name, config.json) -> the modules, without weights.
      sources: path of our parameters -> number of axes, to path -> where it stands.
      canonical: brings the names of other programs' files into those `sources` gives.
      needless: (key, all keys) -> why the key is not needed, or None.
    """

    modules_for: Callable[[Mapping[str, tuple[int, ...]], Mapping[str, Any] | None], Modules]
    sources: Callable[[Mapping[Path, int]], dict[Path, Source]]
    canonical: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict
    needless: Callable[[str, Mapping[str, Any]], str | None] = lambda key, keys: None


def _listed(table: Iterable[tuple[str, str]]) -> Callable[[str, Mapping[str, Any]], str | None]:
    def needless(key: str, keys: Mapping[str, Any]) -> str | None:
        return next((reason for pattern, reason in table if re.fullmatch(pattern, key)), None)

    return needless


_NUMBERS = (jnp.floating, jnp.integer, jnp.bool_)
_PARTS = {
    "unet": _Part(unet.module_for, unet.sources),
    "structure": _Part(structure.module_for, structure.sources),
    "priors": _Part(priors.modules_for, priors.sources),
    "depth": _Part(
        depth_anything.module_for,
        depth_anything.sources,
        needless=_listed(depth_anything.LEFT_OUT),
    ),
    "segmentation": _Part(
        segformer.module_for, segformer.sources, needless=_listed(segformer.LEFT_OUT)
    ),
    "clip": _Part(clip.module_for, clip.sources, clip.canonical, clip.needless),
}
PARTS = tuple(_PARTS)
# What `to_reference` writes: the released program's own networks.
RELEASED_PARTS = ("unet", "structure", "priors")


@dataclasses.dataclass(frozen=True)
class Converted:
    """A part in our naming.

    Attributes:
      modules: the module the parameters fit, or name -> module.
      params: nested dict of float32 numpy arrays.
      loaded: number of the file's arrays that went into `params`.
      left_out: number of the file's arrays that are not needed, by reason.
    """

    modules: Modules
    params: dict[str, Any]
    loaded: int
    left_out: dict[str, int]


def from_reference(
    state_dict: Mapping[str, np.ndarray], part: str, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Convert a PyTorch state dict to our parameters.

    Args:
      state_dict: name -> array in PyTorch's layout (OIHW convolutions, [out, in] linears).
      part: which network it is, one of `PARTS`.
      config: the config.json of a Hugging Face model, where there is one.

    Returns:
      nested dict of numpy arrays, to be used as `apply({"params": params}, ...)`; of `priors`,
      {"teacher", "student", "degradation"}, each such a dict.

    Raises:
      UserError: an unknown part; missing, unexpected or misshapen keys, all of them listed; or
        keys whose values are not finite.
    """
    return convert(state_dict, part, config).params


def convert(
    state_dict: Mapping[str, np.ndarray], part: str, config: Mapping[str, Any] | None = None
) -> Converted:
    """Convert as `from_reference` does, and tell for which module and what was left out."""
    require_known("part", part, PARTS)
    rules = _PARTS[part]
    reasons = {key: rules.needless(key, state_dict) for key in state_dict}
    needed = {key: value for key, value in state_dict.items() if reasons[key] is None}
    found = rules.canonical(needed)
    shapes = {key: tuple(np.shape(value)) for key, value in found.items()}
    _check_numbers(part, found)
    modules = rules.modules_for(shapes, config)
    parameters = flatten_dict(possible_params(modules, f"The state dict, as part {part!r}"))
    wanted = {path: leaf.shape for path, leaf in parameters.items()}
    sources = rules.sources({path: len(shape) for path, shape in wanted.items()})
    expected = {}
    for path, source in sources.items():
        try:
            expected |= source.shapes(wanted[path])
        except ValueError as error:  # more values than can be numbered
            raise UserError(f"Part {part!r} would need {'/'.join(path)} {wanted[path]}.") from error
    _check_keys(part, shapes, expected)
    _check_finite(part, found)
    flat = {
        path: source.read([np.asarray(found[key], np.float32) for key in source.keys])
        for path, source in sources.items()
    }
    left_out = [reason for reason in reasons.values() if reason is not None]
    counts = {reason: left_out.count(reason) for reason in dict.fromkeys(left_out)}
    return Converted(modules, unflatten_dict(flat), len(needed), counts)


def to_reference(params: Mapping[str, Any], part: str) -> dict[str, np.ndarray]:
    """Convert our parameters to the released program's state dict, the inverse of `from_reference`.

    Args:
      params: nested dict of our parameters.
      part: one of `RELEASED_PARTS`.

    Returns:
      name -> numpy array in PyTorch's layout.

    Raises:
      UserError: an unknown part, or a parameter that has no counterpart.
    """
    require_known("part", part, RELEASED_PARTS)
    flat = flatten_dict(params)
    state_dict: dict[str, np.ndarray] = {}
    for path, source in _PARTS[part].sources({p: np.ndim(v) for p, v in flat.items()}).items():
        state_dict |= source.write(np.asarray(flat[path]))
    return state_dict


def unet_for(state_dict: Mapping[str, np.ndarray]) -> ConditionalUNet:
    """Build the UNet, without weights, whose shape a released state dict describes.

    Args:
      state_dict: name -> array (only names and shapes are read).

    Raises:
      UserError: the file lacks the keys that tell the widths, so it is no UNet of this kind.
    """
    return unet.module_for({key: tuple(np.shape(value)) for key, value in state_dict.items()})


def _check_keys(
    part: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise one UserError that lists every missing, unexpected and misshapen key."""
    shared = expected.keys() & found.keys()
    wrong = [key for key in shared if found[key] != expected[key]]
    problems = _listing("missing", expected.keys() - found.keys())
    problems += _listing("unexpected", found.keys() - expected.keys())
    problems += _listing(
        "misshapen", wrong, lambda key: f"{key}: {found[key]}, expected {expected[key]}"
    )
    if problems:
        raise UserError(
            f"The state dict does not fit part {part!r} ({len(shared) - len(wrong)} of "
            f"{len(expected)} keys fit):" + "".join(problems)
        )


def _check_numbers(part: str, found: Mapping[str, np.ndarray]) -> None:
    """Raise UserError for arrays of no numbers, or without any."""
    for key, value in found.items():
        value = np.asarray(value)
        if not any(jnp.issubdtype(value.dtype, kind) for kind in _NUMBERS) or not value.size:
            raise UserError(
                f"{key} of part {part!r} is {value.dtype} of shape {value.shape}; expected numbers."
            )


def _check_finite(part: str, found: Mapping[str, np.ndarray]) -> None:
    bad = [key for key, value in found.items() if not np.isfinite(np.asarray(value)).all()]
    if bad:
        raise UserError(
            f"Weights of part {part!r} are not finite:" + _listing("with NaN or infinity", bad)
        )


def _listing(title: str, keys: Iterable[str], describe: Callable[[str], str] = str) -> str:
    keys = sorted(keys)
    return f"\n  {len(keys)} {title}: " + "; ".join(map(describe, keys)) if keys else ""
