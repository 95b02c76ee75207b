"""Read the text of a compiled program: instructions, the bytes they move, the products they take.

The text is XLA's own (`compiled.as_text()`).  Arrays are counted as they lie in memory: a TPU pads
the two innermost axes to whole tiles, and what lies in the chip's own fast memory (memory space 1
and above) costs no traffic.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from tpgdiff_jax.planning import arithmetic

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "token": 0}
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = ")
_NAME = re.compile(r"%([\w.-]+)")
# What moves nothing by itself.
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency", "domain"),
)
_CALLS = re.compile(r"\b(?:calls|to_apply|body|called_computations)=\{?(%[\w.-]+(?:, %[\w.-]+)*)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array as it lies in memory.

    Attributes:
      dtype: XLA's name of the type, e.g. "bf16".
      shape: its axes.
      bytes: with padding.
      space: memory space; 0 is the main memory.
    """

    dtype: str
    shape: tuple[int, ...]
    bytes: int
    space: int


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name, op: e.g. "fusion.12", "fusion".
      results: the arrays it gives.
      operands: names of what it takes.
      number: of a parameter, where it stands in the call; of a whole constant, its value; else 0.
      rest: its attributes, as text.
    """

    name: str
    op: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    number: int
    rest: str

    @property
    def op_name(self) -> str:
        """Where in our code it comes from, e.g. "jit(step)/jvp(TPGDiff)/unet/stem/conv"."""
        found = _OP_NAME.search(self.rest)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """What a call of a library calls, e.g. "__cublas$gemm"; "" of all else."""
        found = _TARGET.search(self.rest) if self.op == "custom-call" else None
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """Names of the computations it runs."""
        return [name for found in _CALLS.findall(self.rest) for name in _NAME.findall(found)]


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one instruction costs a chip each time, and how often it runs.

    Attributes:
      instruction: which.
      bytes: read from and written to the main memory.
      flops: of matrix products and convolutions.
      times: how often it runs, loops counted.
    """

    instruction: Instruction
    bytes: int
    flops: float
    times: int


class Hlo:
    """A compiled program, read."""

    def __init__(self, text: str):
        """Read the text of a program after its optimisation."""
        self.computations, self.entry = _read(text)

    def costs(self) -> Iterator[Cost]:
        """Yield what every instruction costs that runs as a unit of its own, loops included."""
        yield from self._costs(self.entry, 1)

    def _costs(self, name: str, times: int) -> Iterator[Cost]:
        computation = self.computations[name]
        for instruction in computation.values():
            op = instruction.op
            if op in _FREE or op.endswith("-done") or op.endswith("-update"):
                continue
            if op in ("while", "call", "conditional", "async-start"):
                turns = self._turns(instruction) if op == "while" else 1
                for inner in instruction.called:
                    yield from self._costs(inner, times * turns)
                continue
            moved = self._bytes(computation, instruction)
            yield Cost(instruction, moved, self._flops(computation, instruction), times)

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
        if instruction.op.endswith("-start"):  # its results repeat its operands
            return sum(a.bytes for a in instruction.results if a.space == 0)
        results = instruction.results
        if len(results) > 1 and arithmetic.is_library_call(instruction.target):
            results = results[:-1]  # the last is room to work in
        written = [a.bytes for a in results if a.space == 0]
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
            read += size
        return read + sum(written)

    def products(self) -> Iterator[tuple[Instruction, tuple[str, ...]]]:
        """Yield every product and convolution, fused ones too, and its factors' types."""
        for computation in self.computations.values():
            for instruction in computation.values():
                if instruction.op in ("dot", "convolution"):
                    factors = (computation[name].results[0] for name in instruction.operands[:2])
                    yield instruction, tuple(factor.dtype for factor in factors)

    def within(self, instruction: Instruction) -> Iterator[Instruction]:
        """Yield an instruction and all that is fused into it."""
        yield instruction
        for inner in (self._inside(instruction) or {}).values():
            yield from self.within(inner)

    def _flops(self, computation: Computation, instruction: Instruction) -> float:
        is_call = arithmetic.is_library_call(instruction.target)
        if is_call or instruction.op in ("convolution", "dot"):
            sources = (computation.get(name) for name in instruction.operands)
            operands = [each.results[0].shape for each in sources if each and each.results]
            what = instruction.target if is_call else instruction.op
            out = instruction.results[0].shape
            return arithmetic.operations(what, operands, out, instruction.rest)
        inside = self._inside(instruction)
        if not inside:
            return 0.0
        return sum(self._flops(inside, each) for each in inside.values())

    def _inside(self, instruction: Instruction) -> Computation | None:
        return self.computations[instruction.called[0]] if instruction.op == "fusion" else None


def _read(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[1], line[found.end() :])
            current[instruction.name] = instruction
    return computations, entry


def _instruction(name: str, text: str) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, rest = text[:end], text[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    op, inputs = rest[:opening], rest[opening + 1 : closing]
    number = int(inputs) if op in ("parameter", "constant") and inputs.isdigit() else 0
    operands = tuple(_NAME.findall(inputs))
    return Instruction(name, op, arrays(shape), operands, number, rest[closing + 1 :])


def _closing(text: str, start: int) -> int:
    """Return where the parenthesis that opens at `start` is closed."""
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    return len(text)


@functools.cache
def arrays(text: str) -> tuple[Array, ...]:
    """Return the arrays of a shape's text, e.g. "(bf16[8,128]{1,0:T(8,128)(2,1)}, f32[])"."""
    return tuple(_array(*found) for found in _ARRAY.findall(text))


def _array(dtype: str, sizes: str, layout: str) -> Array:
    shape = tuple(int(size) for size in sizes.split(",") if size)
    order, _, details = layout.partition(":")
    space = re.search(r"S\((\d+)\)", details)
    padded = list(shape)
    tile = re.search(r"T\(([\d,]+)\)", details)
    if tile and shape:
        minor_to_major = [int(axis) for axis in order.split(",") if axis]
        for axis, size in zip(minor_to_major, reversed(tile[1].split(",")), strict=False):
            padded[axis] = -(-shape[axis] // int(size)) * int(size)
    bits = _BITS.get(dtype) or int(re.sub(r"^[a-z]+(\d+).*$", r"\1", dtype))
    return Array(dtype, shape, math.prod(padded) * bits // 8, int(space[1]) if space else 0)


def _parameters(computation: Computation) -> dict[int, str]:
    """Return the names of a computation's parameters by their numbers."""
    return {i.number: i.name for i in computation.values() if i.op == "parameter"}


def _used(computation: Computation, parameter: str, whole: int) -> int:
    """Return how much of a parameter a fusion reads: less than all where it only cuts parts out."""
    users = [each for each in computation.values() if parameter in each.operands]
    if users and all(each.op in ("slice", "dynamic-slice") for each in users):
        return sum(array.bytes for each in users for array in each.results)
    if users and all(
        each.op == "dynamic-update-slice" and each.operands[0] == parameter for each in users
    ):
        return 0
    return whole
