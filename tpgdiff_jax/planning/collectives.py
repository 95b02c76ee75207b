"""The messages of a compiled program: how many, how large, along which axis of the mesh."""

import collections
import dataclasses
import itertools
import math
import re
from collections.abc import Sequence

import numpy as np

from tpgdiff_jax.planning.hlo import Hlo
from tpgdiff_jax.planning.instructions import Instruction
from tpgdiff_jax.planning.movers import layer_of

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")


@dataclasses.dataclass(frozen=True)
class Message:
    """Messages of one kind along one axis, of one chip in one run of the program.

    Attributes:
      kind: one of `KINDS`.
      axis: of the mesh, e.g. "data", or several joined by "+".
      count: how many.
      bytes: what each chip's part of the result has, all together.
      sent: what each chip sends, where the chips pass parts on along a ring.
      largest: bytes of the largest.
      together: where it leaves a node, how many of those that exchange it share one, and so its
        network cards; 0 where it stays.
      sources: where they come from, the largest first.
    """

    kind: str
    axis: str
    count: int
    bytes: int
    sent: float
    largest: int
    together: int
    sources: tuple[str, ...]


def messages(program: Hlo, mesh_shape: Sequence[tuple[str, int]], node: int) -> list[Message]:
    """Return the messages of a program, those that send most first.

    A message that runs beside other work stands several times in the text, once in each operation
    it is fused to; its channel tells that it is the same.

    Args:
      program: compiled.
      mesh_shape: (axis, size) of the mesh; devices are numbered along it, the last axis fastest.
      node: devices that fast links join.
    """
    channels: dict[str, tuple[Instruction, int]] = {}
    for cost in program.costs():
        for instruction in program.within(cost.instruction):
            if instruction.op.removesuffix("-start") in KINDS:
                channel = re.search(r"channel_id=\d+", instruction.rest)
                name = channel[0] if channel else instruction.name
                channels.setdefault(name, (instruction, cost.times))
    devices = math.prod(size for _, size in mesh_shape)
    found = collections.defaultdict(list)
    for instruction, times in channels.values():
        groups = device_groups(instruction) or [list(range(devices))]  # none are named: all
        kind = instruction.op.removesuffix("-start")
        where = kind, axes_of(groups, mesh_shape), _together(groups, node)
        found[where].append((instruction, times, len(groups[0])))
    rows = [_message(*where, members) for where, members in found.items()]
    return sorted(rows, key=lambda row: -row.sent)


def _together(groups: list[list[int]], node: int) -> int:
    """Return the fewest devices of a group that share a node, see `Message`; 0 if all do."""
    counts = [collections.Counter(device // node for device in group) for group in groups]
    return min((min(count.values()) for count in counts if len(count) > 1), default=0)


def _message(
    kind: str, axis: str, together: int, members: list[tuple[Instruction, int, int]]
) -> Message:
    members = sorted(members, key=lambda member: -_size(member[0]))
    return Message(
        kind,
        axis,
        count=sum(times for _, times, _ in members),
        bytes=sum(_size(one) * times for one, times, _ in members),
        sent=sum(_sent(kind, _size(one), chips) * times for one, times, chips in members),
        largest=_size(members[0][0]),
        together=together,
        sources=tuple(dict.fromkeys(layer_of(one.op_name) for one, _, _ in members)),
    )


def _size(instruction: Instruction) -> int:
    """Return the bytes of a message's results."""
    return sum(array.bytes for array in instruction.received)


def _sent(kind: str, size: int, chips: int) -> float:
    """Return what a chip sends of a message in a ring of so many chips."""
    if kind == "collective-permute":
        return size
    share = (chips - 1) / chips
    return {"all-reduce": 2 * share, "reduce-scatter": chips - 1}.get(kind, share) * size


def device_groups(instruction: Instruction) -> list[list[int]]:
    """Return the groups of devices that exchange something, or the pairs of a permutation."""
    rest = instruction.rest
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", rest)
    if pairs:
        return [list(map(int, pair.split(","))) for pair in re.findall(r"\d+,\d+", pairs[1])]
    listed = re.search(r"replica_groups=\{(\{.*?\})\}", rest)
    if listed:
        return [list(map(int, group.split(","))) for group in re.findall(r"[\d,]*\d", listed[1])]
    # mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}: along those axes of a mesh of XLA's own.
    named = re.search(
        r"replica_groups=mesh\[([^]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? "
        r"\{([^}]*)\}",
        rest,
    )
    if named:
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        along = re.findall(r"'(\w+)'", named[4])
        order = [axis for axis in sizes if axis not in along] + along
        source = named[2] or str(math.prod(sizes.values()))
        devices = _numbered(source, named[3]).reshape(list(sizes.values()))
        devices = devices.transpose([list(sizes).index(axis) for axis in order])
        return devices.reshape(-1, math.prod(sizes[axis] for axis in along)).tolist()
    # [groups,size]<=[shape]T(order).
    tiled = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if not tiled:
        return []
    return _numbered(tiled[2], tiled[3]).reshape([int(n) for n in tiled[1].split(",")]).tolist()


def _numbered(shape: str, order: str | None) -> np.ndarray:
    """Return the numbers 0, 1, ... in a shape such as "4,2", its axes in an order such as "1,0"."""
    sizes = [int(n) for n in shape.split(",")]
    numbers = np.arange(math.prod(sizes)).reshape(sizes)
    return numbers.transpose([int(n) for n in order.split(",")]) if order else numbers


def axes_of(groups: list[list[int]], mesh_shape: Sequence[tuple[str, int]]) -> str:
    """Return along which axes of a mesh the devices of groups differ, e.g. "data+fsdp"."""
    sizes = [size for _, size in mesh_shape]
    differ = set()
    for group in groups:
        places = [np.unravel_index(device, sizes) for device in group]
        for one, other in itertools.pairwise(places):
            differ |= {i for i in range(len(sizes)) if one[i] != other[i]}
    named = [axis for i, (axis, _) in enumerate(mesh_shape) if i in differ]
    return "+".join(named) or "none"
