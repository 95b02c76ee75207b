"""Read the text of a compiled program into instructions.

The text is XLA's own (`compiled.as_text()`).  Arrays are counted as they lie in memory: a TPU pads
the two innermost axes to whole tiles.
"""

import dataclasses
import functools
import math
import re

_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128, "token": 0}
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = ")
_NAME = re.compile(r"%([\w.-]+)")
_CALLS = re.compile(r"\b(?:calls|to_apply|body|called_computations)=\{?(%[\w.-]+(?:, %[\w.-]+)*)")
_BRANCHES = re.compile(
    r"\b(?:branch_computations|true_computation|false_computation)=\{?(%[\w.-]+(?:, %[\w.-]+)*)"
)
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
        return _names(_CALLS, self.rest)

    @property
    def branches(self) -> list[str]:
        """Names of the computations of which it runs one."""
        return _names(_BRANCHES, self.rest)

    @property
    def received(self) -> tuple[Array, ...]:
        """What a message brings; where it only starts, its results may repeat what it takes."""
        count = len(self.operands)
        is_repeated = self.op.endswith("-start") and len(self.results) >= 2 * count
        return self.results[count : 2 * count] if is_repeated else self.results


Computation = dict[str, Instruction]


def _names(attribute: re.Pattern[str], rest: str) -> list[str]:
    return [name for found in attribute.findall(rest) for name in _NAME.findall(found)]


def read(text: str) -> tuple[dict[str, Computation], str]:
    """Return a program's computations by their names, and the name of the first that runs."""
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
