"""Names of stage one's networks in the released program's files: teacher, student, degradation."""

from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.backbones.vit import ClipImageTower
from tpgdiff_jax.checkpoints.layouts import Source
from tpgdiff_jax.checkpoints.names import clip
from tpgdiff_jax.checkpoints.names.settings import axes, count
from tpgdiff_jax.checkpoints.names.tables import look_up
from tpgdiff_jax.priors.degradation import DegradationPrior
from tpgdiff_jax.reporting.errors import UserError

# First parts of our parameters' paths -> the released prefix of a whole CLIP tower.
TOWERS = {
    ("teacher",): "teacher.",
    ("student",): "student.",
    ("degradation", "backbone"): "deg_backbone.",
}
_HEAD = {
    r"degradation/block_(\d+)/norm": ([r"deg_head.trunk.\1.ln"], None),
    r"degradation/block_(\d+)/dense_in": ([r"deg_head.trunk.\1.fc1"], None),
    r"degradation/block_(\d+)/dense_out": ([r"deg_head.trunk.\1.fc2"], None),
    r"degradation/classes": (["deg_head.cls"], None),
}


def modules_for(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None = None
) -> dict[str, ClipImageTower | DegradationPrior]:
    """Build the networks, without weights, that a released file describes.

    Args:
      shapes: name -> shape of each array in the file.
      config: as for the towers, see `names.clip.module_for`.

    Returns:
      {"teacher", "student", "degradation"}.

    Raises:
      UserError: the file lacks the keys that tell the sizes.
    """
    if "deg_head.cls.weight" not in shapes:
        some = ", ".join(sorted(shapes)[:5]) or "none at all"
        raise UserError(
            "These are no priors of the released program: the key 'deg_head.cls.weight' is "
            f"missing. First keys found: {some}."
        )
    towers = {
        path[-1]: clip.module_for(_with_prefix(shapes, prefix), config)
        for path, prefix in TOWERS.items()
    }
    degradation = DegradationPrior(
        towers.pop("backbone"),
        num_classes=axes(shapes, "deg_head.cls.weight", 2)[0],
        blocks=count(shapes, r"deg_head\.trunk\.(\d+)\."),
    )
    return {**towers, "degradation": degradation}


def _with_prefix(shapes, prefix):
    found = {k.removeprefix(prefix): v for k, v in shapes.items() if k.startswith(prefix)}
    if not found:
        raise UserError(f"No key of the state dict begins with {prefix!r}.")
    return found


def sources(ndims: Mapping[tuple[str, ...], int]) -> dict[tuple[str, ...], Source]:
    """Map our parameters to where they stand in a file.

    Args:
      ndims: path of each of stage one's parameters -> number of its axes.

    Raises:
      UserError: a parameter that the file's format does not have.
    """
    return {path: _source(path, ndim) for path, ndim in ndims.items()}


def _source(path: tuple[str, ...], ndim: int) -> Source:
    for ours, prefix in TOWERS.items():
        if path[: len(ours)] == ours:
            inner = path[len(ours) :]
            source = clip.sources({inner: ndim})[inner]
            return Source(tuple(prefix + key for key in source.keys), source.layout)
    return look_up(path, ndim, _HEAD)
