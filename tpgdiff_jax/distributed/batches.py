"""How batches lie on the mesh: examples over (`data`, `fsdp`), image rows over `spatial`.

Rows can be split as long as every device keeps at least one row of what a convolution of stride 2
gives and two of what one of stride 1 takes.  With fewer, XLA (as of jax 0.10.2) returns wrong
gradients without saying so.  `check_rows` refuses such meshes.
"""

from collections.abc import Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tpgdiff_jax.reporting.errors import UserError


def batch_sharding(mesh: Mesh, ndim: int, *, split_rows: bool = True) -> NamedSharding:
    """Return the sharding of a batch.

    Args:
      mesh: the mesh.
      ndim: of the array; 4 means images [B, H, W, C].
      split_rows: lay image rows over `spatial`; else every device there holds whole images.
    """
    rows = ("spatial",) if ndim == 4 and split_rows else ()
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp"), *rows))


def check_batch(
    mesh: Mesh, batch_size: int, height: int, *, accumulate: int = 1, prefix: str = ""
) -> None:
    """Raise UserError unless batch and rows divide over the mesh; shows the arithmetic.

    Args:
      mesh: the mesh.
      batch_size: examples of a step.
      height: rows of an image that lie over `spatial`.
      accumulate: parts of a batch that are computed one after the other.
      prefix: of the configuration's keys that are named.
    """
    examples = _parts(mesh)
    product = f"the mesh's data x fsdp = {_product(mesh)} = {examples} devices"
    if batch_size % (examples * accumulate):
        times = f"{prefix}optim.accumulate={accumulate} times " if accumulate > 1 else ""
        raise UserError(
            f"config.{prefix}data.batch_size={batch_size} is no multiple of {times}{product}."
        )
    spatial = mesh.shape["spatial"]
    if height % spatial:
        raise UserError(
            f"config.{prefix}data.crop_size={height} is no multiple of the mesh's spatial = "
            f"{spatial} devices."
        )
    process_share(mesh)


def check_rows(
    mesh: Mesh, shrinking: Iterable[tuple[str, int, str, int]], *, accumulate: int = 1
) -> None:
    """Raise UserError unless rows can be split and the gradients stay right.

    Each device keeps whole rows of every network's coarsest map.  And XLA (of jax 0.10) sums a
    kernel's gradient over all devices where rows are split, those along `tensor` too, which compute
    the same: it would come out as many times too large as there are.

    Args:
      mesh: the mesh; with `spatial` of 1 everything is legal.
      shrinking: (config key, its rows, the network, by how much the network shrinks them).
      accumulate: parts of a batch that are computed one after the other.
    """
    spatial, tensor = mesh.shape["spatial"], mesh.shape["tensor"]
    if spatial > 1 and tensor > 1:
        raise UserError(
            f"config.mesh.spatial={spatial} and config.mesh.tensor={tensor}: where rows are split, "
            "XLA sums gradients over devices along `tensor` that hold the same, and they come out "
            "wrong. Set one of the two to 1; `fsdp` splits parameters beside either."
        )
    for key, rows, network, factor in shrinking if spatial > 1 else ():
        if rows % (spatial * factor):
            raise UserError(
                f"config.{key}={rows}: {network} shrinks rows {factor}-fold, and mesh.spatial="
                f"{spatial} devices share what is left, so it must be a multiple of {factor} x "
                f"{spatial} = {factor * spatial}; change it or lower mesh.spatial."
            )
        if accumulate > 1 and rows // factor <= 2:
            raise UserError(
                f"config.{key}={rows}: {network} shrinks it to {rows // factor} rows, and XLA gets "
                f"the gradients wrong where mesh.spatial={spatial} devices share so few in a batch "
                f"of optim.accumulate={accumulate} parts; set one of the two to 1 or take larger "
                "images."
            )


def process_share(mesh: Mesh) -> tuple[int, int]:
    """Return which share of every batch this process must provide.

    Processes along `tensor` and `spatial` work on the same examples, so they read the same.

    Returns:
      (index, count): share `index` of `count` equal, consecutive shares.

    Raises:
      UserError: the mesh cuts through the processes in a way that leaves no equal shares.
    """
    parts = mesh.devices.reshape(_parts(mesh), -1)
    owners = [[device.process_index for device in part] for part in parts]
    return shares(owners)[jax.process_index()]


def shares(owners: list[list[int]]) -> dict[int, tuple[int, int]]:
    """Return each process's (index, count) of its share of the batch.

    Args:
      owners: for each part of the batch, the processes of the devices that hold it.

    Raises:
      UserError: as in `process_share`.
    """
    held: dict[int, list[int]] = {}
    for part, processes in enumerate(owners):
        for process in sorted(set(processes)):
            held.setdefault(process, []).append(part)
    blocks = sorted({tuple(parts) for parts in held.values()})
    length = len(blocks[0])
    if blocks != [tuple(range(i, i + length)) for i in range(0, len(owners), length)]:
        listed = "; ".join(f"process {process}: {parts}" for process, parts in held.items())
        raise UserError(
            f"config.mesh: data x fsdp cuts the batch into {len(owners)} parts, which fall on the "
            f"processes' devices as {listed}. Every process must hold a block of its own or share "
            "a whole block with others; choose data x fsdp as a multiple or a divisor of the "
            f"{len(held)} processes."
        )
    return {process: (blocks.index(tuple(parts)), len(blocks)) for process, parts in held.items()}


def place(value: np.ndarray, where: jax.sharding.Sharding) -> jax.Array:
    """Lay an array that every process holds whole over devices; each copies what its own hold."""
    return jax.make_array_from_callback(value.shape, where, lambda index: value[index])


def to_global(
    batch: Mapping[str, np.ndarray], mesh: Mesh, *, split_rows: bool = True
) -> dict[str, jax.Array]:
    """Join the processes' shares of a batch into global arrays on the mesh.

    Args:
      batch: this process's examples as `process_share` tells, whole images, name -> [b, ...].
      mesh: the mesh.
      split_rows: as in `batch_sharding`.
    """
    index, count = process_share(mesh)
    arrays = {}
    for name, value in batch.items():
        local = np.asarray(value)
        shape, first = (count * local.shape[0], *local.shape[1:]), index * local.shape[0]
        arrays[name] = jax.make_array_from_callback(
            shape,
            batch_sharding(mesh, local.ndim, split_rows=split_rows),
            lambda place, local=local, first=first, total=shape[0]: local[
                (_shifted(place[0], first, total), *place[1:])
            ],
        )
    return arrays


def _shifted(place: slice, first: int, total: int) -> slice:
    start, stop, _ = place.indices(total)
    return slice(start - first, stop - first)


def _parts(mesh: Mesh) -> int:
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _product(mesh: Mesh) -> str:
    return f"{mesh.shape['data']} x {mesh.shape['fsdp']}"
