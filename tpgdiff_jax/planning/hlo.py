"""What a compiled program costs a chip: the bytes its instructions move, the products they take.

What lies in a chip's own fast memory (memory space 1 and above) costs no traffic.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping

from tpgdiff_jax.planning import arithmetic
from tpgdiff_jax.planning.instructions import Computation, Instruction, read

# What moves nothing by itself.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency", "domain"),
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one instruction costs a chip each time, and how often it runs.

    Attributes:
      instruction: which.
      bytes: read from and written to the main memory.
      products: operations of matrix products and convolutions, by `arithmetic.PRECISIONS`.
      times: how often it runs, loops counted.
    """

    instruction: Instruction
    bytes: int
    products: Mapping[str, float]
    times: int

    @property
    def flops(self) -> float:
        """Operations of all products."""
        return sum(self.products.values())


class Hlo:
    """A compiled program, read."""

    def __init__(self, text: str):
        """Read the text of a program after its optimisation."""
        self.computations, self.entry = read(text)

    def costs(self) -> Iterator[Cost]:
        """Yield what every instruction costs that runs as a unit of its own, loops included."""
        yield from self._costs(self.entry, 1)

    def _costs(self, name: str, times: int) -> Iterator[Cost]:
        computation = self.computations[name]
        for instruction in computation.values():
            op = instruction.op
            if op in _FREE or op.endswith("-done") or op.endswith("-update"):
                continue
            if op == "conditional":  # of its branches the dearest counts
                branches = [list(self._costs(name, times)) for name in instruction.branches]
                yield from max(branches, key=_weight)
                continue
            if op in ("while", "call", "async-start"):
                turns = self._turns(instruction) if op == "while" else 1
                for inner in instruction.called:
                    yield from self._costs(inner, times * turns)
                continue
            moved = self._bytes(computation, instruction)
            yield Cost(instruction, moved, self._products(computation, instruction), times)

    def _turns(self, loop: Instruction) -> int:
        """Return how often a loop turns: as XLA says, else what its condition compares with."""
        trips = _TRIPS.search(loop.rest)
        if trips:
            return int(trips[1])
        condition = re.search(r"condition=%([\w.-]+)", loop.rest)
        if condition is None:
            return 1
        inside = self.computations[condition[1]].values()
        bounds = [i.number for each in inside for i in self.within(each) if i.op == "constant"]
        return max(bounds, default=1)

    def _bytes(self, computation: Computation, instruction: Instruction) -> int:
        """Return what an instruction reads and writes of the main memory."""
        inside = self._inside(instruction)
        if instruction.op in ("slice-start", "dynamic-slice-start"):
            _, part, *_ = instruction.results  # (whole, part, context): what the part takes
            return part.bytes * (2 if part.space == 0 else 1)
        if instruction.op.endswith("-start") and instruction.op != "all-reduce-start":
            # Its results repeat its operands.
            return sum(a.bytes for a in instruction.results if a.space == 0)
        results = instruction.results
        if len(results) > 1 and arithmetic.is_library_call(instruction.target):
            results = results[:-1]  # the last is room to work in
        root = next(reversed(inside.values())) if inside else instruction
        changed = _changed(inside or computation, root)
        if len(changed) != len(results):
            changed = [None] * len(results)
        written = [
            array.bytes if part is None else part
            for array, part in zip(results, changed, strict=True)
            if array.space == 0
        ]
        read = 0
        parameters = _parameters(inside) if inside else {}
        for index, operand in enumerate(instruction.operands):
            source = computation.get(operand)
            arrays = [a for a in source.results if a.space == 0] if source else []
            size = sum(a.bytes for a in arrays)
            if inside and index in parameters:
                size = min(size, _used(inside, parameters[index], size))
            elif instruction.op in ("slice", "dynamic-slice", "gather"):
                size = min(size, sum(written))
            elif instruction.op == "dynamic-update-slice" and index == 0:
                size = 0
            read += size
        return read + sum(written)

    def products(self) -> Iterator[tuple[Instruction, str]]:
        """Yield every product and convolution, fused ones too, and its precision."""
        for computation in self.computations.values():
            for instruction in computation.values():
                if _is_product(instruction):
                    yield instruction, _precision(computation, instruction)

    def within(self, instruction: Instruction) -> Iterator[Instruction]:
        """Yield an instruction and all that is fused into it."""
        yield instruction
        for inner in (self._inside(instruction) or {}).values():
            yield from self.within(inner)

    def _products(self, computation: Computation, instruction: Instruction) -> dict[str, float]:
        if _is_product(instruction):
            sources = (computation.get(name) for name in instruction.operands)
            operands = [each.results[0].shape for each in sources if each and each.results]
            what = instruction.target or instruction.op
            out = instruction.results[0].shape
            count = arithmetic.operations(what, operands, out, instruction.rest)
            return {_precision(computation, instruction): count}
        inside = self._inside(instruction) or {}
        found: collections.Counter[str] = collections.Counter()
        for each in inside.values():
            found.update(self._products(inside, each))
        return dict(found)

    def _inside(self, instruction: Instruction) -> Computation | None:
        return self.computations[instruction.called[0]] if instruction.op == "fusion" else None


def _is_product(instruction: Instruction) -> bool:
    return instruction.op in ("convolution", "dot") or arithmetic.is_library_call(
        instruction.target
    )


def _precision(computation: Computation, product: Instruction) -> str:
    """Return which of `arithmetic.PRECISIONS` a product has."""
    factors = (computation.get(name) for name in product.operands[:2])
    types = [factor.results[0].dtype for factor in factors if factor and factor.results]
    return arithmetic.precision(types, product.rest)


def _weight(costs: list[Cost]) -> tuple[float, int]:
    """Return what costs are compared by: arithmetic, then bytes."""
    return (
        sum(cost.flops * cost.times for cost in costs),
        sum(cost.bytes * cost.times for cost in costs),
    )


def _parameters(computation: Computation) -> dict[int, str]:
    """Return the names of a computation's parameters by their numbers."""
    return {i.number: i.name for i in computation.values() if i.op == "parameter"}


def _base(computation: Computation, name: str) -> Instruction | None:
    """Return what a name stands for, seen through bitcasts."""
    found = computation.get(name)
    while found and found.op == "bitcast":
        found = computation.get(found.operands[0])
    return found


def _used(computation: Computation, parameter: str, whole: int) -> int:
    """Return how much of a parameter a fusion reads: less than all where it only cuts parts out."""
    users = [
        (each, [_base(computation, name) for name in each.operands])
        for each in computation.values()
        if each.op != "bitcast"
    ]
    users = [(each, bases) for each, bases in users if parameter in bases]
    if users and all(each.op in ("slice", "dynamic-slice") for each, _ in users):
        return sum(array.bytes for each, _ in users for array in each.results)
    if users and all(
        each.op == "dynamic-update-slice" and bases.index(parameter) == 0 for each, bases in users
    ):
        return 0
    return whole


def _base(computation: Computation, name: str) -> str:
    """Return what a name stands for, seen through bitcasts."""
    while name in computation and computation[name].op == "bitcast":
        name = computation[name].operands[0]
    return name


def _changed(computation: Computation, instruction: Instruction) -> list[int | None]:
    """Return how much of each result is new where the rest stays as it lies, else None."""
    outs = [instruction]
    if instruction.op == "tuple":
        outs = [computation[_base(computation, name)] for name in instruction.operands]
    return [
        computation[out.operands[1]].results[0].bytes if out.op == "dynamic-update-slice" else None
        for out in outs
    ]
