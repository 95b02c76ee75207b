"""Matrix products as the networks need them.

On CPUs oneDNN computes them where it can be had (`native`), elsewhere XLA.  Under `jax.vmap` over
both factors they stay products of oneDNN.
"""

import functools

import jax
import jax.numpy as jnp

from tpgdiff_jax import native
from tpgdiff_jax.backbones import xla_convolution as xla

# Products with fewer multiplications are over before a foreign call has begun.
_MIN_PRODUCT = 2**20


@jax.custom_vjp
def pointwise(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Multiply the last axis by a matrix, a 1x1 convolution, and add a bias.

    Args:
      x: [..., C].
      kernel: [C, O], of x's dtype or float32; rounded to x's dtype.
      bias: [O], or None.

    Returns:
      [..., O] in x's dtype.
    """
    operands = (x, kernel) if bias is None else (x, kernel, bias.astype(jnp.float32))
    return _product(native.Product(), _multiply, *operands)


def _product(problem, form, *operands):
    """Let oneDNN compute a product that is large enough."""
    first, second = operands[:2]
    work = first.size * second.shape[0 if problem.transposed else -1]
    if work < _MIN_PRODUCT:
        return form(*operands)[0]
    return native.call(problem, form, *operands)[0]


def _multiply(x, kernel, bias=None):
    y = jnp.tensordot(x, kernel.astype(x.dtype), 1)
    return [y if bias is None else y + bias.astype(y.dtype)]


def _multiply_transposed(dy, kernel):
    return [jnp.tensordot(dy, kernel.astype(dy.dtype).T, 1)]


@functools.cache
def _matrix_form(dtype):
    return lambda x, dy: [xla.matrix_gradient(x, dy).astype(dtype)]


def _pointwise_forward(x, kernel, bias=None):
    return pointwise(x, kernel, bias), (x, kernel, bias)


def _pointwise_backward(residuals, dy):
    x, kernel, bias = residuals
    dx = _product(native.Product(transposed=True), _multiply_transposed, dy, kernel)
    dtype = kernel.dtype.name
    dkernel = _product(native.Product(gradient=True, dtype=dtype), _matrix_form(dtype), x, dy)
    if bias is None:
        return dx, dkernel, None
    dbias = dy.astype(jnp.float32).sum(tuple(range(dy.ndim - 1)))
    return dx, dkernel, dbias.astype(bias.dtype)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


def multiply_wide(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Multiply the last axis [..., C] by a matrix [C, O] without rounding: float32 [..., O].

    It has no gradient.
    """
    return _product(native.Product(dtype="float32"), _wide, x, matrix)


def _wide(x, matrix):
    return [jnp.matmul(x, matrix, preferred_element_type=jnp.float32)]


@jax.custom_vjp
def gram(x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiply over all rows: x^T y [C, O] in float32 of x [N, C] and y [N, O], of one dtype."""
    return _product(native.Product(gradient=True, dtype="float32"), _gram_form, x, y)


def _gram_form(x, y):
    if y.shape[1] < x.shape[1]:  # XLA's CPU backend copies the factor that it turns
        return [_gram_form(y, x)[0].T]
    return [jnp.matmul(x.T, y, preferred_element_type=jnp.float32)]


def _gram_forward(x, y):
    return gram(x, y), (x, y)


def _gram_backward(kept, dproduct):
    x, y = kept
    dx = _product(native.Product(transposed=True), _multiply_transposed, y, dproduct)
    return dx, _product(native.Product(), _multiply, x, dproduct)


gram.defvjp(_gram_forward, _gram_backward)
