"""Convolutions as the UNet needs them, with weight gradients that are fast on CPUs.

XLA's CPU backend computes two weight gradients several times slower than the layer itself:

* of a 3x3 convolution at high resolution.  There, wide layers use a row-blocked form: a few rows
  at a time are unfolded to patches that stay in cache, and one product accumulates patches^T dy;
* of a 1x1 convolution written as a dot that contracts three axes.  There, the axes are merged
  before the product.

GPUs and TPUs keep XLA's own gradients.  `python launch/bench gradients` measures both.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Below these sizes XLA's own CPU gradient is the faster one (measured, launch/bench).
_MIN_BLOCKED_CHANNELS = 64
_MIN_BLOCKED_PIXELS = 32 * 32
# Pixels unfolded at a time: 9 * 64 channels * 2048 * 4 bytes is about the size of an L2 cache.
_BLOCK_PIXELS = 2048


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS)


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve with a 3x3 kernel, stride 1, zero padding 1.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C, O], the same dtype.

    Returns:
      [B, H, W, O].
    """
    return _convolve(x, kernel)


def _conv3x3_forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _conv3x3_backward(residuals, dy):
    x, kernel = residuals
    _, input_vjp = jax.vjp(lambda x: _convolve(x, kernel), x)
    return input_vjp(dy)[0], kernel_gradient(x, dy).astype(kernel.dtype)


conv3x3.defvjp(_conv3x3_forward, _conv3x3_backward)


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
    _, vjp = jax.vjp(lambda kernel: _convolve(x, kernel), kernel)
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


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiply the last axis by a matrix: a 1x1 convolution.

    Args:
      x: [..., C].
      kernel: [C, O], the same dtype.

    Returns:
      [..., O].
    """
    return jnp.tensordot(x, kernel, 1)


def _pointwise_forward(x, kernel):
    return jnp.tensordot(x, kernel, 1), (x, kernel)


def _pointwise_backward(residuals, dy):
    x, kernel = residuals
    dkernel = lax.platform_dependent(
        x, dy, cpu=merged_matrix_gradient, default=native_matrix_gradient
    )
    return jnp.tensordot(dy, kernel.T, 1), dkernel.astype(kernel.dtype)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def native_matrix_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return x^T dy [C, O] as one contraction of all leading axes of x [..., C], dy [..., O]."""
    axes = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, dy, (axes, axes))


def merged_matrix_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """Return the same as `native_matrix_gradient`, with the leading axes merged first."""
    return x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])


class Dense(nn.Module):
    """A matrix product over the last axis, by default with a bias; parameters as in `nn.Dense`.

    Attributes:
      features: output channels.
      use_bias: add a bias.
      zero_init: start the matrix at zero.
      init_gain: otherwise, by how much larger than the usual scale the matrix starts.
      dtype, param_dtype: of the computation and of the parameters.
    """

    features: int
    use_bias: bool = True
    zero_init: bool = False
    init_gain: float = 1.0
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = nn.initializers.zeros_init()
        normal = nn.initializers.variance_scaling(self.init_gain**2, "fan_in", "truncated_normal")
        init = zeros if self.zero_init else normal
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
        y = pointwise(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", zeros, (self.features,), self.param_dtype)
            y = y + bias.astype(self.dtype)
        return y


class Conv3x3(nn.Module):
    """A 3x3 convolution, stride 1, zero padding 1.

    Attributes:
      features: output channels.
      use_bias: add a bias.
      zero_init: start all weights at zero, so that the layer first answers zero.
      dtype, param_dtype: of the computation and of the parameters.
    """

    features: int
    use_bias: bool = False
    zero_init: bool = False
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = nn.initializers.zeros_init()
        init = zeros if self.zero_init else nn.initializers.lecun_normal()
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        y = conv3x3(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", zeros, (self.features,), self.param_dtype)
            y = y + bias.astype(self.dtype)
        return y
