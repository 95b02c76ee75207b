"""One named mesh, and how parameters lie on it by rules.

Axes: `data` and `fsdp` split the batch, `fsdp` may split parameters too, `tensor` splits wide
parameters, `spatial` splits image rows (XLA exchanges the halos).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tpgdiff_jax.distributed.rules import DEFAULT_RULES, Rule, check_rules, full_rule
from tpgdiff_jax.distributed.slices import arranged
from tpgdiff_jax.reporting.errors import UserError

AXES = ("data", "fsdp", "tensor", "spatial")


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Build the mesh.

    Args:
      sizes: devices along each of `AXES`; at most one may be -1, which takes the rest.
      devices: the devices to use; all by default.

    Returns:
      a mesh with automatic axes.

    Raises:
      UserError: the sizes do not multiply to the number of devices (shows the arithmetic), or
        `data` does not divide among the TPU slices.
    """
    devices = jax.devices() if devices is None else devices
    shape = [int(sizes[axis]) for axis in AXES]
    asked = " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise UserError(f"config.mesh: {asked}: sizes must be positive, at most one may be -1.")
    known = math.prod(size for size in shape if size != -1)
    count = len(devices)
    if -1 in shape and count % known:
        raise UserError(
            f"config.mesh: {asked}: {count} devices are at hand, and {count} / {known} is no whole "
            "number, so nothing fits in the place of -1."
        )
    if -1 in shape:
        shape[shape.index(-1)] = count // known
    if math.prod(shape) != count:
        raise UserError(
            f"config.mesh: {asked} makes {math.prod(shape)}, but {count} devices are at hand; the "
            "sizes must multiply to that number (-1 takes the rest)."
        )
    types = (AxisType.Auto,) * len(AXES)
    return Mesh(arranged(devices, shape), AXES, axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def gathered(sharding: NamedSharding, axis: str) -> NamedSharding:
    """Return a sharding that does not split along one axis of the mesh."""

    def without(names: Any) -> tuple[str, ...] | None:
        names = names if isinstance(names, tuple) else (names,)
        return tuple(name for name in names if name not in (axis, None)) or None

    return NamedSharding(sharding.mesh, PartitionSpec(*map(without, sharding.spec)))


def infer_shardings(
    tree: Any,
    mesh: Mesh,
    rules: Sequence[Rule] = DEFAULT_RULES,
    *,
    warn_if_idle: bool = True,
) -> Any:
    """Choose a sharding for every leaf by the first rule whose regex is found in its path.

    Args:
      tree: arrays or shapes; paths are the keys joined by "/", e.g. "unet/stem/kernel".
      mesh: the mesh.
      rules: see `distributed.rules`.
      warn_if_idle: log a warning where no tensor at all is split over `tensor` or `fsdp`.

    Returns:
      the same tree of `NamedSharding`.

    Raises:
      UserError: a rule is wrong, or no rule matches a leaf.
    """
    check_rules(rules)
    used: set[str] = set()

    def choose(path, leaf):
        name = path_name(path)
        for pattern, tactic, least in map(full_rule, rules):
            if re.search(pattern, name):
                spec = _spec(leaf.shape, mesh, tactic, least)
                used.update(axis for axis in spec if axis)
                return NamedSharding(mesh, spec)
        raise UserError(f"config.sharding: no rule matches {name!r}; add ('.*', 'replicate').")

    shardings = jax.tree_util.tree_map_with_path(choose, tree)
    if warn_if_idle and jax.tree.leaves(tree):
        _warn_of_idle_axes(mesh, rules, used)
    return shardings


def state_shardings(state: Any, mesh: Mesh, rules: Sequence[Rule] = DEFAULT_RULES) -> Any:
    """Lay out a training state: parameters by rules, what follows them alike, the rest whole.

    Averages and the optimiser's moments are trees of the parameters' shapes, however deep within
    chained or masked optimisers: their paths end in the parameter's path, and they lie where it
    lies, so that an update needs no message.

    Args:
      state: arrays or shapes, with a field `params`.
      mesh, rules: as in `infer_shardings`; paths begin below `params`.

    Returns:
      the same tree of `NamedSharding`.
    """
    found = infer_shardings(state.params, mesh, rules)
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    table = {
        tuple(map(_key, path)): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(found), strict=True)
    }

    def choose(path, leaf):
        keys = tuple(map(_key, path))
        for start in range(len(keys)):
            shape, sharding = table.get(keys[start:], (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(choose, state)


def path_name(path: Sequence[Any]) -> str:
    """Return the keys of a leaf's path joined by "/"."""
    return "/".join(map(_key, path))


def _key(key: Any) -> str:
    """Return a path's key as text: of a dict, a field, or a place in a tuple."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _spec(shape: tuple[int, ...], mesh: Mesh, tactic: str, least: int) -> PartitionSpec:
    """Return how a tensor is split; an axis of the mesh that nothing divides over is left out."""
    axes: list[str | None] = [None] * len(shape)
    if math.prod(shape) < least or not shape:
        return PartitionSpec()
    parts = mesh.shape["tensor"]
    if "tensor" in tactic and parts > 1 and shape[-1] % parts == 0:
        axes[-1] = "tensor"
    parts = mesh.shape["fsdp"]
    free = [i for i, size in enumerate(shape) if axes[i] is None and size % parts == 0]
    if "fsdp" in tactic and parts > 1 and free:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*axes) if any(axes) else PartitionSpec()


def _warn_of_idle_axes(mesh: Mesh, rules: Sequence[Rule], used: set[str]) -> None:
    needs = {"tensor": "output channels", "fsdp": "an axis"}
    cost = {"tensor": "its devices repeat each other's work", "fsdp": "every device holds them all"}
    for axis, need in needs.items():
        parts = mesh.shape[axis]
        if parts == 1 or axis in used:
            continue
        asking = [f"{rule[0]!r} ({full_rule(rule)[2]})" for rule in rules if axis in rule[1]]
        logging.warning(
            "config.mesh.%s=%d splits no parameter, so %s: rules that ask for it, with the "
            "elements a tensor needs: %s; none of their tensors is as large and has %s divisible "
            "by %d.",
            axis,
            parts,
            cost[axis],
            ", ".join(asking) or "none",
            need,
            parts,
        )
