"""The UNet's building blocks: norms, embeddings, residual blocks, resampling, structural FiLM.

Numbers in comments refer to TPGDiff (arXiv 2601.20306) unless another source is named.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import Conv, Conv3x3, Dense
from tpgdiff_jax.backbones.kept import kept_alone
from tpgdiff_jax.backbones.transformer import layer_norm
from tpgdiff_jax.backbones.typed import TypedModule


class PixelNorm(TypedModule):
    """Normalise the channels of each pixel; learned gain, no shift.  Computed in float32."""

    epsilon: float = 1e-5
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.zeros_init() if self.zero_init else nn.initializers.ones_init()
        gain = self.param("scale", init, (x.shape[-1],), self.param_dtype)
        return scaled_unit_variance(x, gain, self.epsilon).astype(self.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def scaled_unit_variance(x: jax.Array, gain: jax.Array, epsilon: float) -> jax.Array:
    """Return gain (x - mean) / sqrt(variance + epsilon) over the last axis, float32.

    Its gradient keeps `x` alone, in whatever type that is; by itself JAX would keep two more arrays
    of its size, in float32.

    Args:
      x: [..., C].
      gain: [C].
      epsilon: positive.
    """
    return _unit_variance(x, epsilon)[0] * gain.astype(jnp.float32)


def _unit_variance(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.float32)
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + epsilon)
    return centred * scale, scale


def _keep_input(x, gain, epsilon):
    return scaled_unit_variance(x, gain, epsilon), (x, gain)


def _gradient(epsilon, kept, cotangent):
    """With u = (x - mean) s and c = gain g: dx = s (c - mean c - u mean(c u)), dgain = sum g u."""
    x, gain = kept_alone(kept)
    unit, scale = _unit_variance(x, epsilon)
    c = cotangent * gain.astype(jnp.float32)
    c_mean, cu_mean = c.mean(axis=-1, keepdims=True), (c * unit).mean(axis=-1, keepdims=True)
    of_x = scale * (c - c_mean - unit * cu_mean)
    of_gain = (cotangent * unit).sum(axis=tuple(range(x.ndim - 1)))
    return of_x.astype(x.dtype), of_gain.astype(gain.dtype)


scaled_unit_variance.defvjp(_keep_input, _gradient)


def join_channels(x: jax.Array, skip: jax.Array) -> jax.Array:
    """Join two arrays of one dtype along their channels, [..., C] and [..., D] -> [..., C + D].

    XLA's CPU backend turns bfloat16 into float32 and back to join it; there it sees whole numbers.
    """
    if x.dtype != jnp.bfloat16:
        return _join(x, skip)
    bits = functools.partial(_join_bits, x.shape[-1])
    return jax.lax.platform_dependent(x, skip, cpu=bits, default=_join)


def _join(x, skip):
    return jnp.concatenate([x, skip], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _join_bits(width: int, x: jax.Array, skip: jax.Array) -> jax.Array:
    bits = _join(*(jax.lax.bitcast_convert_type(part, jnp.uint16) for part in (x, skip)))
    return jax.lax.bitcast_convert_type(bits, jnp.bfloat16)


def _join_bits_forward(width, x, skip):
    return _join_bits(width, x, skip), None


def _join_bits_backward(width, kept, joined):
    del kept
    bits = jax.lax.bitcast_convert_type(joined, jnp.uint16)
    parts = bits[..., :width], bits[..., width:]
    return tuple(jax.lax.bitcast_convert_type(part, jnp.bfloat16) for part in parts)


_join_bits.defvjp(_join_bits_forward, _join_bits_backward)


def sinusoidal_embedding(t: jax.Array, width: int) -> jax.Array:
    """Embed times as sines and cosines of geometrically spaced frequencies.

    Args:
      t: times, int or float [B]; fractions are legal.
      width: even number of features, at least 4.

    Returns:
      float32 [B, width], sines first (Vaswani et al., arXiv 1706.03762, Section 3.5).
    """
    half = width // 2
    frequencies = jnp.exp(-math.log(10000) / (half - 1) * jnp.arange(half))
    angles = t.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(TypedModule):
    """Turn times [B] into the conditioning vector, float32 [B, 4 * width]."""

    width: int

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        x = sinusoidal_embedding(t, self.width)
        x = Dense(4 * self.width, exact=True, name="dense_in", **self.dtypes)(x)
        x = nn.gelu(x, approximate=False)
        return Dense(4 * self.width, exact=True, name="dense_out", **self.dtypes)(x)


class DegradationPrompt(TypedModule):
    """Turn the degradation prior [B, E] into a summand of the time embedding [B, features].

    softmax(MLP(e_deg)) weighs the entries of one learned prompt vector.  The weights sum to one and
    first are nearly equal, so a prompt of unit scale hardly changes the time embedding and tells
    degradations apart even less; `wide_init` starts with sharper weights and a larger prompt.
    """

    features: int
    wide_init: bool = False

    @nn.compact
    def __call__(self, degradation: jax.Array) -> jax.Array:
        exact = {"exact": True, **self.dtypes}
        x = Dense(self.features, name="dense_in", **exact)(degradation)
        gain = 4.0 if self.wide_init else 1.0
        x = Dense(self.features, init_gain=gain, name="dense_out", **exact)(nn.silu(x))
        normal = nn.initializers.normal(self.features**0.5 if self.wide_init else 1.0)
        prompt = self.param("prompt", normal, (1, self.features), self.param_dtype)
        x = jax.nn.softmax(x, axis=-1) * prompt.astype(jnp.float32)
        return Dense(self.features, name="prompt_out", **exact)(x)


class ResBlock(TypedModule):
    """Two 3x3 convolutions, scaled and shifted by the time embedding, plus the input.

    h = SiLU(conv(x) (1 + scale) + shift);  out = SiLU(conv(h)) + skip(x)

    With `zero_init` scale and shift start at zero: scales multiply from block to block, and random
    ones can make a young network explode.
    """

    features: int
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        how = {"zero_init": self.zero_init, "exact": True, **self.dtypes}
        modulate = Dense(2 * self.features, name="modulation", **how)
        scale, shift = jnp.split(modulate(nn.silu(time)), 2, axis=-1)
        h = Conv3x3(self.features, silu=True, name="conv_in", **self.dtypes)(x, scale, shift)
        if x.shape[-1] != self.features:
            x = Dense(self.features, use_bias=False, name="skip", **self.dtypes)(x)
        return Conv3x3(self.features, silu=True, name="conv_out", **self.dtypes)(h, residual=x)


class StructuralFiLM(TypedModule):
    """Scale and shift features by the mean structural token: x (1 + gamma) + beta.

    With `active=False` the parameters exist but the input passes unchanged: released checkpoints
    carry an adapter for the deepest level that their forward pass never uses, and files must
    convert both ways without loss.  With `zero_init` the input passes unchanged at first.
    `share` [B, 1] weighs each image's modulation.
    """

    active: bool = True
    zero_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, token: jax.Array, share: jax.Array | float = 1.0) -> jax.Array:
        norm = layer_norm("norm", 1e-5, jnp.float32, self.param_dtype)
        how = {"zero_init": self.zero_init, "exact": True, **self.dtypes}
        modulation = Dense(2 * x.shape[-1], name="modulation", **how)(norm(token)) * share
        gamma, beta = jnp.split(modulation[:, None, None, :], 2, axis=-1)
        # In float32, rounded once: much faster on CPUs than bfloat16 at every step.
        return (x * (1 + gamma) + beta).astype(self.dtype) if self.active else x


class Downsample(TypedModule):
    """Halve the resolution: 4x4 convolution, stride 2, zero padding 1, with bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return Conv(self.features, True, size=4, stride=2, name="conv", **self.dtypes)(x)


class Upsample(TypedModule):
    """Double the resolution: nearest neighbour, then a 3x3 convolution with bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c))
        x = x.reshape(b, 2 * h, 2 * w, c)
        return Conv3x3(self.features, use_bias=True, name="conv", **self.dtypes)(x)
