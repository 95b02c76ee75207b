"""Count the operations of products and convolutions, as XLA's text describes them.

A TPU's program holds them as XLA's own instructions, a GPU's as calls of NVIDIA's libraries.
"""

import functools
import math
import re
from collections.abc import Mapping, Sequence

Shape = tuple[int, ...]

# Of products: bfloat16 and the like; float32 that may be rounded; float32 that must not be.
PRECISIONS = ("bfloat16", "float32", "exact")

_PRODUCT = "__cublas$"
_CONVOLUTION = "__cudnn$conv"
_ATTENTION = "__cudnn$fmha"


def is_library_call(target: str) -> bool:
    """Tell whether a call is one of NVIDIA's libraries, whose work `operations` knows."""
    return target.startswith((_PRODUCT, _CONVOLUTION, _ATTENTION))


def precision(types: Sequence[str], rest: str) -> str:
    """Return which of `PRECISIONS` a product has.

    Args:
      types: XLA's names of its factors' types.
      rest: its attributes, as XLA writes them.
    """
    if not {"f32", "f64"} & set(types):
        return "bfloat16"
    is_exact = re.search(r'operand_precision(?:=\{|":\[")highest', rest, re.IGNORECASE)
    return "exact" if is_exact else "float32"


def operations(what: str, operands: Sequence[Shape], out: Shape, rest: str) -> float:
    """Return the operations of one product, convolution or attention, 2 for each multiplication.

    Args:
      what: "dot", "convolution", or what is called, see `is_library_call`.
      operands: shapes of what it takes.
      out: shape of its (first) result.
      rest: its attributes, as XLA writes them.
    """
    if what == "dot" or what.startswith(_PRODUCT):
        return _product(operands[0], out, rest)
    if what.startswith(_ATTENTION):
        # q [B, N, heads, d], k [B, M, heads, d]: scores and answers; with their gradients and the
        # scores again, five products.
        batch, queries, heads, width = operands[0]
        products = 5 if what.endswith("Backward") else 2
        return products * 2.0 * batch * queries * operands[1][1] * heads * width
    left, right = operands[:2]
    if what.endswith("BackwardInput"):  # of dy and kernel; it counts as the convolution itself
        left, out = out, left
    elif what.endswith("BackwardFilter"):  # of x and dy
        right, out = out, right
    return _convolution(left, right, out, rest)


def _product(left: Shape, out: Shape, rest: str) -> float:
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest) or re.search(
        r'"lhs_contracting_dimensions":\[([\d",]*)\]', rest
    )
    axes = found[1].replace('"', "").split(",")
    return 2.0 * math.prod(out) * math.prod(left[int(axis)] for axis in axes if axis)


def _convolution(left: Shape, right: Shape, out: Shape, rest: str) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", rest)
    size_of = {axis: out[i] for i, axis in enumerate(labels[3])}
    found = 2.0 * size_of["b"] * size_of["f"] * right[labels[2].index("i")]
    windows = _windows(rest)
    for axis in filter(str.isdigit, labels[3]):
        window = windows[int(axis)] if windows else {}
        found *= _pairs(left[labels[1].index(axis)], size_of[axis], tuple(window.items()))
    groups = re.search(r"batch_group_count=(\d+)", rest)
    return found / (int(groups[1]) if groups else 1)


def _windows(rest: str) -> list[dict[str, str]]:
    """Return the fields of a convolution's window, for each spatial axis."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    fields = [field.split("=") for field in found[1].split()] if found else []
    columns = {name: values.split("x") for name, values in fields}
    count = len(columns.get("size", ()))
    return [{name: values[i] for name, values in columns.items()} for i in range(count)]


@functools.cache
def _pairs(size: int, out: int, window: Sequence[tuple[str, str]]) -> int:
    """Return how many (output, kernel) places of an axis meet a true input, padding left out."""
    fields: Mapping[str, str] = dict(window)
    kernel, stride = int(fields.get("size", 1)), int(fields.get("stride", 1))
    spread, step = int(fields.get("lhs_dilate", 1)), int(fields.get("rhs_dilate", 1))
    before = int(fields.get("pad", "0_0").split("_")[0])
    last = (size - 1) * spread
    count = 0
    for place in range(out):
        for tap in range(kernel):
            index = place * stride - before + tap * step
            count += 0 <= index <= last and index % spread == 0
    return count
