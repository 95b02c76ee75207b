"""One named mesh, and rules that say how parameters and batches lie on it.

Axes: `data` and `fsdp` split the batch, `fsdp` may split parameters too, `tensor` splits wide
parameters, `spatial` splits image rows (XLA exchanges the halos).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor", "spatial")
TACTICS = ("replicate", "fsdp", "tensor")

# Splitting small tensors costs more in messages than it saves in memory.
_MIN_SHARDED_ELEMENTS = 2**18


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Build the mesh.

    Args:
      sizes: devices along each of `AXES`; at most one may be -1, which takes the rest.
      devices: the devices to use; all by default.

    Returns:
      a mesh with automatic axes.

    Raises:
      ValueError: the sizes do not multiply to the number of devices; shows the arithmetic.
    """
    devices = jax.devices() if devices is None else devices
    shape = [int(sizes[axis]) for axis in AXES]
    asked = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise ValueError(f"config.mesh: {asked}: sizes must be positive, at most one may be -1.")
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    if math.prod(shape) != len(devices):
        raise ValueError(
            f"config.mesh: {asked} does not make the {len(devices)} devices at hand; the sizes "
            "must multiply to that number (-1 takes the rest)."
        )
    types = (AxisType.Auto,) * len(AXES)
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Return the sharding of a batch: examples over (`data`, `fsdp`), image rows over `spatial`.

    Args:
      mesh: the mesh.
      ndim: of the array; 4 means images [B, H, W, C].
    """
    rows = ("spatial",) if ndim == 4 else ()
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp"), *rows))


def check_batch(mesh: Mesh, batch_size: int, height: int) -> None:
    """Raise ValueError unless batch and rows divide over the mesh; shows the arithmetic."""
    examples = mesh.shape["data"] * mesh.shape["fsdp"]
    for key, value, parts, axes in (
        ("data.batch_size", batch_size, examples, "data x fsdp"),
        ("data.crop_size", height, mesh.shape["spatial"], "spatial"),
    ):
        if value % parts:
            raise ValueError(
                f"config.{key}={value} is no multiple of the mesh's {axes} = {parts} devices."
            )


def infer_shardings(tree: Any, mesh: Mesh, rules: Sequence[tuple[str, str]]) -> Any:
    """Choose a sharding for every leaf by the first rule whose regex matches its path.

    Args:
      tree: arrays or shapes; paths are the keys joined by "/", e.g. "params/unet/stem/kernel".
      mesh: the mesh.
      rules: (regex, tactic) pairs; `replicate`, or `fsdp` / `tensor`, which split the largest axis
        that divides over that mesh axis, for tensors large enough to be worth it.

    Returns:
      the same tree of `NamedSharding`.

    Raises:
      ValueError: an unknown tactic, or a leaf that no rule matches.
    """
    for pattern, tactic in rules:
        if tactic not in TACTICS:
            raise ValueError(
                f"config.sharding: tactic {tactic!r} of {pattern!r} is unknown; expected one of "
                f"{', '.join(TACTICS)}."
            )

    def choose(path, leaf):
        name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        for pattern, tactic in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, _spec(leaf.shape, mesh, tactic))
        raise ValueError(f"config.sharding: no rule matches {name!r}; add ('.*', 'replicate').")

    return jax.tree_util.tree_map_with_path(choose, tree)


def _spec(shape: tuple[int, ...], mesh: Mesh, tactic: str) -> PartitionSpec:
    if tactic == "replicate" or math.prod(shape) < _MIN_SHARDED_ELEMENTS:
        return PartitionSpec()
    parts = mesh.shape[tactic]
    divisible = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not divisible:
        return PartitionSpec()
    largest = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*(tactic if axis == largest else None for axis in range(len(shape))))


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Join the processes' parts of a batch into global arrays on the mesh.

    Args:
      batch: this process's examples, name -> array [b, ...].
      mesh: the mesh.
    """
    return {
        name: jax.make_array_from_process_local_data(
            batch_sharding(mesh, np.ndim(value)), np.asarray(value)
        )
        for name, value in batch.items()
    }
