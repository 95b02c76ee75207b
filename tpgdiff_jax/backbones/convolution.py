"""Convolutions as the networks need them, and the layers made of them and of products.

On CPUs oneDNN computes them where it can be had (`native`), elsewhere XLA (`xla_convolution`).
Their gradients are written out, since neither differentiates through a foreign call.  The kernel
may be float32 beside bfloat16 images: it is rounded for the computation, and its gradient, which
oneDNN sums up in float32, is handed on as it is.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax import native
from tpgdiff_jax.backbones import xla_convolution as xla
from tpgdiff_jax.backbones.kept import kept_alone
from tpgdiff_jax.backbones.products import pointwise
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.backbones.xla_convolution import SAME_3X3, Padding
from tpgdiff_jax.native.problems import FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT
from tpgdiff_jax.precision import EXACT

# A TPU convolves images of fewer channels in a layout of up to 20 times their size.  That copy is
# not kept for the gradient, but made again when the gradient comes to it.
_FEW = 16


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def convolve(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    stride: int = 1,
    padding: Padding = SAME_3X3,
    silu: bool = False,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    residual: jax.Array | None = None,
) -> jax.Array:
    """Convolve and do what follows: SiLU((conv(x) + bias) (1 + scale) + shift) + residual.

    In one pass over the images where oneDNN computes and no gradient is wanted.

    Args:
      x: float32 or bfloat16 [B, H, W, C].
      kernel: [h, w, C, O], of x's dtype or float32; rounded to x's dtype.
      bias: [O], or None.
      stride: of rows and columns.
      padding: zeros put at ((top, bottom), (left, right)).
      silu: apply SiLU.
      scale, shift: [B, O], float32 or x's dtype, or both None.
      residual: [B, H', W', O] in x's dtype, or None.

    Returns:
      [B, H', W', O] in x's dtype.
    """
    return _forward(x, kernel, bias, stride, padding, silu, scale, shift, residual)


def _forward(x, kernel, bias, stride, padding, silu=False, scale=None, shift=None, residual=None):
    float32 = jnp.float32
    optional = {
        "bias": None if bias is None else [bias.astype(float32)],
        "modulated": None if scale is None else [1 + scale.astype(float32), shift.astype(float32)],
        "residual": None if residual is None else [residual],
    }
    given = {name: value is not None for name, value in optional.items()}
    operands = [array for value in optional.values() for array in value or []]
    problem = native.Convolution(FORWARD, stride, padding, silu=silu, **given)
    return native.call(problem, _forward_form(problem), x, kernel, *operands)[0]


@functools.cache
def _forward_form(problem):
    def form(x, kernel, *rest):
        rest = iter(rest)
        y = xla.convolve(x, kernel, problem.stride, problem.padding)
        if problem.bias:
            y = y + next(rest).astype(y.dtype)
        factor, summand = (next(rest), next(rest)) if problem.modulated else (None, None)
        residual = next(rest) if problem.residual else None
        return [_finish(y, factor, summand, problem.silu, residual)]

    return form


def _finish(z, factor, summand, silu, residual=None):
    """Do what follows a convolution.

    In float32: XLA's CPU code that rounds to bfloat16 at every step takes 3 to 8 times as long.
    """
    y = z.astype(jnp.float32)
    if factor is not None:
        y = y * factor[:, None, None, :] + summand[:, None, None, :]
    y = nn.silu(y) if silu else y
    return (y if residual is None else y + residual.astype(jnp.float32)).astype(z.dtype)


def _modulate(z, scale, shift, silu):
    """Do what follows a convolution, but for the residual; what its gradient is taken of."""
    if scale is None:
        return _finish(z, None, None, silu)
    return _finish(z, 1 + scale.astype(jnp.float32), shift.astype(jnp.float32), silu)


def _convolve_forward(x, kernel, bias, stride, padding, silu, scale, shift, residual):
    z = _forward(x, kernel, bias, stride, padding)
    y = _modulate(z, scale, shift, silu)
    kept = (z, scale, shift) if silu or scale is not None else (None, None, None)
    if residual is None:
        return y, (x, kernel, bias, kept, None)
    return y + residual, (x, kernel, bias, kept, ())  # a marker: its gradient is dy


def _convolve_backward(stride, padding, silu, residuals, dy):
    x, kernel, bias, kept, marker = residuals
    dresidual, dscale, dshift = None if marker is None else dy, None, None
    if kept[0] is not None:
        kept = kept_alone(kept)
        _, vjp = jax.vjp(lambda *kept: _modulate(*kept, silu), *kept)
        dy, dscale, dshift = vjp(dy)
    place = (stride, padding)
    if x.shape[-1] < _FEW:
        x, dy = jax.lax.optimization_barrier((x, dy))
    problem = native.Convolution(INPUT_GRADIENT, *place, size=x.shape[1:3])
    (dx,) = native.call(problem, _input_form(*place, x.shape[1:3]), dy, kernel)
    size, has_bias, dtype = kernel.shape[:2], bias is not None, kernel.dtype.name
    problem = native.Convolution(KERNEL_GRADIENT, *place, size, bias=has_bias, dtype=dtype)
    dkernel, *dbias = native.call(problem, _kernel_form(*place, size, has_bias, dtype), x, dy)
    dbias = dbias[0].astype(bias.dtype) if has_bias else None
    return dx, dkernel, dbias, dscale, dshift, dresidual


convolve.defvjp(_convolve_forward, _convolve_backward)


@functools.cache
def _input_form(stride, padding, size):
    return lambda dy, kernel: [xla.input_gradient(dy, kernel, size, stride, padding)]


@functools.cache
def _kernel_form(stride, padding, size, has_bias, dtype):
    def form(x, dy):
        dkernel = xla.any_kernel_gradient(x, dy, size, stride, padding).astype(dtype)
        return [dkernel, dy.astype(jnp.float32).sum((0, 1, 2))] if has_bias else [dkernel]

    return form


def _kernel_of(parameter: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Round a parameter of an unusual type; float32 ones are rounded where they are used."""
    return parameter if parameter.dtype == jnp.float32 else parameter.astype(dtype)


class Dense(TypedModule):
    """A matrix product over the last axis, by default with a bias; parameters as in `nn.Dense`.

    Attributes:
      features: output channels.
      use_bias: add a bias.
      zero_init: start the matrix at zero.
      init_gain: otherwise, by how much larger than the usual scale the matrix starts.
      exact: compute in float32, rounding nothing, whatever `dtype` is: for vectors that change all
        of an image alike.  Each pixel's rounding is noise, but theirs is an error of its level.
    """

    features: int
    use_bias: bool = True
    zero_init: bool = False
    init_gain: float = 1.0
    exact: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        zeros = nn.initializers.zeros_init()
        init = zeros if self.zero_init else _normal(self.init_gain)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", zeros, (self.features,), self.param_dtype)
        if self.exact:
            x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
            y = jnp.matmul(x, kernel, precision=EXACT)
            return y if bias is None else y + bias.astype(jnp.float32)
        return pointwise(x.astype(self.dtype), _kernel_of(kernel, self.dtype), bias)


def _normal(gain: float) -> nn.initializers.Initializer:
    """Return random weights whose outputs have about `gain` times their inputs' scale."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")


class Conv(TypedModule):
    """A square convolution; parameters as in `nn.Conv`.

    Attributes:
      features: output channels.
      use_bias: add a bias.
      zero_init: start all weights at zero, so that the layer first answers zero.
      init_gain: otherwise, by how much larger than the usual scale the kernel starts.
      size: of the kernel, in pixels.
      stride: of rows and columns.
      padding: zeros put at ((top, bottom), (left, right)), or "same" as in `nn.Conv`; None:
        (size - stride) / 2 on every side, which needs both as odd or as even.
      silu: apply SiLU.
      exact_input: take a float32 input as it is, not rounded to `dtype`: for images, of which
        bfloat16 keeps no more than 8 bits.
    """

    features: int
    use_bias: bool = False
    zero_init: bool = False
    init_gain: float = 1.0
    size: int = 3
    stride: int = 1
    silu: bool = False
    padding: Padding | str | None = None
    exact_input: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        scale: jax.Array | None = None,
        shift: jax.Array | None = None,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """Return SiLU((conv(x) + bias) (1 + scale) + shift) + residual; see `convolve`."""
        zeros = nn.initializers.zeros_init()
        init = zeros if self.zero_init else _normal(self.init_gain)
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = _kernel_of(self.param("kernel", init, shape, self.param_dtype), self.dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", zeros, (self.features,), self.param_dtype)
        if self.exact_input and self.dtype == jnp.bfloat16:
            x, kernel = _halves(x), jnp.concatenate([kernel, kernel], axis=2)
        x = x.astype(self.dtype)
        after = (self.silu, scale, shift, residual)
        return convolve(x, kernel, bias, self.stride, self._padding(x.shape[1:3]), *after)

    def _padding(self, image: tuple[int, int]) -> Padding:
        if self.padding == "same":
            missing = ((-(-n // self.stride) - 1) * self.stride + self.size - n for n in image)
            totals = [max(total, 0) for total in missing]
            return tuple((total // 2, total - total // 2) for total in totals)
        if self.padding is not None:
            return self.padding
        side = ((self.size - self.stride) // 2,) * 2
        return (side, side)


def _halves(x: jax.Array) -> jax.Array:
    """Return what bfloat16 keeps of an image, and beside it what it loses: [..., C] -> [..., 2C].

    The sum of both has 16 bits, and a convolution of both with the same kernel adds them up.
    """
    x = x.astype(jnp.float32)
    kept = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return jnp.concatenate([kept, x - kept], axis=-1)


class Conv3x3(Conv):
    """A 3x3 convolution, stride 1, zero padding 1."""
