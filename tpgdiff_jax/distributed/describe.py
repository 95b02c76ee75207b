"""A table of how a training state and its batches lie on the devices."""

import collections
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tabulate
from jax.sharding import Mesh, NamedSharding

from tpgdiff_jax.distributed.batches import batch_sharding
from tpgdiff_jax.distributed.sharding import path_name

_WHOLE = "whole on every device"


def describe_shardings(
    shapes: Any,
    shardings: Any,
    mesh: Mesh,
    batch: Mapping[str, Any] | None = None,
    *,
    split_rows: bool = True,
) -> str:
    """Describe the layout of a state: its parameters by network, the totals, the batch.

    Args:
      shapes: a state of arrays or `jax.ShapeDtypeStruct`, with a field `params`.
      shardings: the same tree of `NamedSharding`.
      mesh: the mesh.
      batch: the global batch's arrays or shapes by name; None leaves it out.
      split_rows: as in `batch_sharding`.

    Returns:
      lines of text without a final line break.
    """
    sizes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    lines = [f"Mesh {sizes}: {mesh.size} {mesh.devices.flat[0].platform} device(s)."]
    lines.append(_parameter_table(shapes.params, shardings.params))
    lines.append(_total_table(shapes, shardings))
    if batch:
        lines.append(_batch_table(batch, mesh, split_rows))
    return "\n\n".join(lines)


def bytes_per_device(shapes: Any, shardings: Any) -> int:
    """Return how many bytes of a tree of arrays or shapes each device holds."""
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    return sum(_local_bytes(leaf, sharding) for leaf, sharding in pairs)


def _local_bytes(leaf: Any, sharding: NamedSharding) -> int:
    return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _layout(leaf: Any, sharding: NamedSharding) -> str:
    """Say how a tensor is split, e.g. "outputs / tensor=2, inputs / fsdp=4"."""
    parts = []
    for place, axis in enumerate(sharding.spec):
        if axis is not None:
            named = {-1: "outputs", -2: "inputs"}.get(place - len(leaf.shape), f"axis {place}")
            parts.append(f"{named} / {axis}={sharding.mesh.shape[axis]}")
    return ", ".join(reversed(parts)) or _WHOLE


def _parameter_table(params: Any, shardings: Any) -> str:
    groups = collections.defaultdict(list)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        network = path_name(path).split("/")[0]
        groups[network, _layout(leaf, sharding)].append((path_name(path), leaf, sharding))
    rows = []
    for (network, layout), members in sorted(groups.items()):
        name, largest, _ = max(members, key=lambda member: math.prod(member[1].shape))
        rows.append(
            [
                network,
                layout,
                len(members),
                _count(math.prod(leaf.shape) for _, leaf, _ in members),
                _size(sum(_local_bytes(leaf, sharding) for _, leaf, sharding in members)),
                f"{name.split('/', 1)[-1]} {list(largest.shape)}",
            ]
        )
    headers = ["network", "how split", "tensors", "parameters", "per device", "largest"]
    return _table(rows, headers)


def _total_table(shapes: Any, shardings: Any) -> str:
    """One line for each field of the state, each next to what it would take on one device."""
    rows = []
    for field in (*shapes.__dataclass_fields__, None):
        part, where = (getattr(tree, field) if field else tree for tree in (shapes, shardings))
        leaves = jax.tree.leaves(part)
        if not leaves:
            continue
        count = _count(math.prod(leaf.shape) for leaf in leaves)
        whole = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
        local = bytes_per_device(part, where)
        rows.append([field or "all", len(leaves), count, _size(whole), _size(local)])
    return _table(rows, ["state", "tensors", "numbers", "in all", "per device"])


def _batch_table(batch: Mapping[str, Any], mesh: Mesh, split_rows: bool) -> str:
    rows = []
    for name, array in batch.items():
        local = batch_sharding(mesh, len(array.shape), split_rows=split_rows).shard_shape(
            tuple(array.shape)
        )
        size = math.prod(local) * np.dtype(array.dtype).itemsize
        rows.append([name, str(array.dtype), list(array.shape), list(local), _size(size)])
    return _table(rows, ["batch", "type", "in all", "on each device", "per device"])


def _table(rows: list[list[Any]], headers: list[str]) -> str:
    return tabulate.tabulate(rows, headers, tablefmt="simple", disable_numparse=True)


def _count(numbers: Any) -> str:
    return f"{sum(numbers):,}"


def _size(number: float) -> str:
    if number < 1024:
        return f"{number:.0f} B"
    power = min(int(math.log2(number)) // 10, 3)
    return f"{number / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"
