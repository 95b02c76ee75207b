"""What oneDNN is asked to compute: convolutions, their gradients, matrix products.

A problem is everything about a call but the arrays: it derives the results' shapes, the attributes
of the custom call, the numbers that tell the library of it, and which arrays carry a batch.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# dnnl_data_type_t of oneDNN 3.
_TYPES = {jnp.dtype(jnp.float32): 3, jnp.dtype(jnp.bfloat16): 2}

FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT = 0, 1, 2

Arrays = Sequence[Any]  # anything with a shape and a dtype


class UnsupportedError(Exception):
    """oneDNN is not asked for this; the text says why."""


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution of [B, H, W, C] with an HWIO kernel, or one of its gradients.

    Attributes:
      kind: FORWARD: (x, kernel[, bias][, factor, summand][, residual]) -> y; INPUT_GRADIENT:
        (dy, kernel) -> dx; KERNEL_GRADIENT: (x, dy) -> (dkernel[, dbias]).
      stride: of rows and columns.
      padding: zeros put at ((top, bottom), (left, right)).
      size: what the operands do not tell: height and width of dx, or those of the kernel.
      bias: FORWARD: first add a bias, float32 [O]; KERNEL_GRADIENT: sum up its gradient.
      modulated: FORWARD: then multiply and add numbers of each image, float32 [B, O].
      silu: FORWARD: then apply SiLU.
      residual: FORWARD: then add an array like y.
      dtype: KERNEL_GRADIENT: of dkernel.
    """

    kind: int
    stride: int = 1
    padding: tuple[tuple[int, int], tuple[int, int]] = ((1, 1), (1, 1))
    size: tuple[int, int] = (0, 0)
    bias: bool = False
    modulated: bool = False
    silu: bool = False
    residual: bool = False
    dtype: str = "float32"

    target = "tpgdiff_onednn_convolution"
    question = "TpgdiffDescribeConvolution"

    def results(self, *operands: Any) -> list[jax.ShapeDtypeStruct]:
        """Return shapes and dtypes of the results."""
        first, second = operands[:2]
        batch = first.shape[0]
        if self.kind == INPUT_GRADIENT:
            shape = (batch, *self.size, second.shape[2])
            return [jax.ShapeDtypeStruct(shape, first.dtype)]
        if self.kind == KERNEL_GRADIENT:
            kernel = (*self.size, first.shape[3], second.shape[3])
            bias = [jax.ShapeDtypeStruct(second.shape[3:], jnp.float32)] if self.bias else []
            return [jax.ShapeDtypeStruct(kernel, jnp.dtype(self.dtype)), *bias]
        sides = (
            (first.shape[1 + axis] + sum(self.padding[axis]) - second.shape[axis]) // self.stride
            + 1
            for axis in (0, 1)
        )
        return [jax.ShapeDtypeStruct((batch, *sides, second.shape[3]), first.dtype)]

    def attributes(self, operands: Arrays) -> dict[str, Any]:
        """Return the attributes of the custom call."""
        return {
            "kind": np.int64(self.kind),
            "stride": np.int64(self.stride),
            "padding": np.array(self.padding, np.int64).reshape(4),
            "bias": self.bias,
            "modulated": self.modulated,
            "silu": self.silu,
            "residual": self.residual,
        }

    def numbers(self, operands: Arrays, results: Arrays) -> list[int]:
        """Return the fields of the C++ struct `Convolution`."""
        image = results[0] if self.kind == INPUT_GRADIENT else operands[0]
        kernel = results[0] if self.kind == KERNEL_GRADIENT else operands[1]
        height, width, channels, features = kernel.shape
        return [
            self.kind,
            *image.shape[:3],
            channels,
            features,
            height,
            width,
            self.stride,
            *np.ravel(self.padding).tolist(),
            type_number(image.dtype),
            type_number(kernel.dtype),
            *map(int, (self.bias, self.modulated, self.silu, self.residual)),
        ]

    def batched(self, operands: Arrays) -> list[bool] | None:
        """Tell which operands and results have a batch that further ones may be merged into.

        Returns:
          one flag per operand; the first result has the batch, too.  None: no such batch.
        """
        if self.kind == KERNEL_GRADIENT:
            return None
        shared = 2 if self.bias else 1  # kernel and bias
        return [not 1 <= index <= shared for index in range(len(operands))]


@dataclasses.dataclass(frozen=True)
class Product:
    """A product over the last axis, x [..., K] times a matrix, or the gradient to that matrix.

    Attributes:
      gradient: (x [..., K], dy [..., N]) -> x^T dy [K, N], instead of (x, matrix[, bias]) -> y.
      transposed: the matrix is [N, K] instead of [K, N].
      dtype: of the result; "" is x's.
      many: each operand and the result have one more axis before all others: of products that are
        computed one by one, without bias.
    """

    gradient: bool = False
    transposed: bool = False
    dtype: str = ""
    many: bool = False

    target = "tpgdiff_onednn_product"
    question = "TpgdiffDescribeProduct"

    def results(self, *operands: Any) -> list[jax.ShapeDtypeStruct]:
        """Return shape and dtype of the result."""
        first, second = operands[:2]
        columns = second.shape[-2 if self.transposed else -1]
        shape = (*first.shape[:-1], columns)
        if self.gradient:
            shape = (*first.shape[: int(self.many)], first.shape[-1], columns)
        return [jax.ShapeDtypeStruct(shape, jnp.dtype(self.dtype or first.dtype))]

    def attributes(self, operands: Arrays) -> dict[str, Any]:
        """Return the attributes of the custom call."""
        return {"gradient": self.gradient, "transposed": self.transposed, "many": self.many}

    def numbers(self, operands: Arrays, results: Arrays) -> list[int]:
        """Return the fields of the C++ struct `Product`."""
        first, second, result = operands[0], operands[1], results[0]
        count = first.shape[0] if self.many else 1
        rows, inner = math.prod(first.shape[:-1]) // count, first.shape[-1]
        if self.gradient:
            rows, inner = inner, rows
        return [
            count,
            rows,
            inner,
            result.shape[-1],
            int(self.gradient),
            int(self.transposed),
            *(type_number(array.dtype) for array in (first, second, result)),
            int(len(operands) == 3),
        ]

    def batched(self, operands: Arrays) -> list[bool] | None:
        """Tell which operands have a batch; as `Convolution.batched`."""
        if self.gradient or self.many:
            return None
        return [i == 0 for i in range(len(operands))]


def type_number(dtype: jnp.dtype) -> int:
    """Return oneDNN's number of a dtype.

    Raises:
      UnsupportedError: neither float32 nor bfloat16.
    """
    if jnp.dtype(dtype) not in _TYPES:
        raise UnsupportedError(f"{jnp.dtype(dtype).name} is neither float32 nor bfloat16")
    return _TYPES[jnp.dtype(dtype)]
