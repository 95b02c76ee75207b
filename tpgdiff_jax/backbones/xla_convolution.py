"""Convolutions and products as XLA computes them, with weight gradients that are fast on CPUs.

XLA's CPU backend computes two weight gradients several times slower than the layer itself:

* of a 3x3 convolution at high resolution.  There, wide layers use a row-blocked form: a few rows
  at a time are unfolded to patches that stay in cache, and one product accumulates patches^T dy;
* of a 1x1 convolution written as a dot that contracts three axes.  There, the axes are merged
  before the product.

GPUs and TPUs keep XLA's own gradients.  `python launch/bench gradients` measures both.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros put at (top, bottom), (left, right)

SAME_3X3: Padding = ((1, 1), (1, 1))
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Below these sizes XLA's own CPU gradient is the faster one (`python launch/bench gradients`).
_MIN_BLOCKED_CHANNELS = 64
_MIN_BLOCKED_PIXELS = 32 * 32
# Pixels unfolded at a time: 9 * 64 channels * 2048 * 4 bytes is about the size of an L2 cache.
_BLOCK_PIXELS = 2048


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Padding = SAME_3X3
) -> jax.Array:
    """Convolve [B, H, W, C] with a kernel [h, w, C, O], in x's dtype."""
    kernel = kernel.astype(x.dtype)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS
    )


def input_gradient(
    dy: jax.Array, kernel: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    """Return the gradient of `convolve` to its input, whose height and width is `size`."""
    shape = jax.ShapeDtypeStruct((dy.shape[0], *size, kernel.shape[2]), dy.dtype)
    transposed = jax.linear_transpose(lambda x: convolve(x, kernel, stride, padding), shape)
    return transposed(dy)[0]


def any_kernel_gradient(
    x: jax.Array, dy: jax.Array, size: tuple[int, int], stride: int, padding: Padding
) -> jax.Array:
    """Return the gradient of `convolve` to its kernel, whose height and width is `size`."""
    if (size, stride, padding) == ((3, 3), 1, SAME_3X3):
        return kernel_gradient(x, dy)
    shape = jax.ShapeDtypeStruct((*size, x.shape[-1], dy.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda k: convolve(x, k, stride, padding), shape)(dy)[0]


def kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the gradient of a 3x3 convolution to its kernel, by the form that is fast here.

    Args:
      x: the convolution's input, [B, H, W, C].
      dy: gradient to its output, [B, H, W, O].

    Returns:
      [3, 3, C, O].
    """
    channels = min(x.shape[-1], dy.shape[-1])
    if channels < _MIN_BLOCKED_CHANNELS or x.shape[1] * x.shape[2] < _MIN_BLOCKED_PIXELS:
        return native_kernel_gradient(x, dy)
    return lax.platform_dependent(
        x, dy, cpu=blocked_kernel_gradient, default=native_kernel_gradient
    )


def native_kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the kernel gradient as XLA derives it; arguments as in `kernel_gradient`."""
    kernel = jnp.zeros((3, 3, x.shape[-1], dy.shape[-1]), x.dtype)
    _, vjp = jax.vjp(lambda kernel: convolve(x, kernel), kernel)
    return vjp(dy)[0]


def blocked_kernel_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the kernel gradient as sums of patches^T dy over blocks of rows.

    Arguments and result as in `kernel_gradient`; accumulates in float32.
    """
    batch, height, width, channels = x.shape
    features = dy.shape[-1]
    rows = _block_rows(height, max(1, _BLOCK_PIXELS // (batch * width)))
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def add_block(total, start):
        window = lax.dynamic_slice_in_dim(padded, start, rows + 2, axis=1)
        patches = jnp.concatenate(
            [window[:, i : i + rows, j : j + width] for i in range(3) for j in range(3)], axis=-1
        )
        block = lax.dynamic_slice_in_dim(dy, start, rows, axis=1)
        product = lax.dot_general(
            patches.reshape(-1, 9 * channels),
            block.reshape(-1, features),
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        return total + product, None

    zero = jnp.zeros((9 * channels, features), jnp.float32)
    total, _ = lax.scan(add_block, zero, jnp.arange(0, height, rows))
    return total.reshape(3, 3, channels, features).astype(x.dtype)


@functools.cache
def _block_rows(height: int, most: int) -> int:
    """Return the largest divisor of `height` that is at most `most`."""
    return max(rows for rows in range(1, min(height, most) + 1) if height % rows == 0)


def matrix_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return x^T dy [C, O] of x [..., C] and dy [..., O], by the form that is fast here."""
    return lax.platform_dependent(x, dy, cpu=merged_matrix_gradient, default=native_matrix_gradient)


def native_matrix_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return x^T dy [C, O] as one contraction of all leading axes of x [..., C], dy [..., O]."""
    axes = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, dy, (axes, axes))


def merged_matrix_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the same as `native_matrix_gradient`, with the leading axes merged first."""
    return x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
