"""Attention over pixels whose cost is linear in their number (Shen et al., arXiv 1812.01243).

Keys and values are summed up to one small matrix, which every query then reads; large images do
both block by block.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import Dense
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.models.layers import PixelNorm


class LinearAttention(TypedModule):
    """Attend in time linear in the pixel count.

    out = Dense(softmax_features(q) d^-1/2 . [softmax_pixels(k)^T v / N]), then a gain-only norm.

    Attributes:
      heads, head_dim: number of heads and width of each.
      zero_init: start the last norm's gain at zero, so that the layer first answers zero.
      dtype, param_dtype: of the computation and of the parameters; softmax is float32.
    """

    heads: int = 4
    head_dim: int = 32
    zero_init: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, share: jax.Array | float = 1.0
    ) -> jax.Array:
        del context, share  # the same call as SpatialTransformer; no cross-attention here
        batch, height, width, channels = x.shape
        hidden = self.heads * self.head_dim
        qkv = Dense(3 * hidden, use_bias=False, name="qkv", **self.dtypes)
        out = Dense(channels, name="out", **self.dtypes)
        norm = PixelNorm(zero_init=self.zero_init, name="norm", **self.dtypes)
        if self.is_initializing() or height * width <= _MAX_PIXELS:
            q, k, v = jnp.split(qkv(x).reshape(batch, -1, 3 * hidden), 3, axis=-1)
            answer = linear_attention(q, k, v, self.heads)
            return norm(out(answer.reshape(batch, height, width, hidden)))
        # Loops may not call bound modules; these are the same layers as functions of parameters.
        params = self.variables["params"]
        matrix = Dense(hidden, use_bias=False, parent=None, **self.dtypes)
        projections = [
            functools.partial(matrix.apply, {"params": {"kernel": kernel}})
            for kernel in jnp.split(params["qkv"]["kernel"], 3, axis=1)
        ]

        def finish(answer):
            answer = out.clone(parent=None, name=None).apply({"params": params["out"]}, answer)
            return norm.clone(parent=None, name=None).apply({"params": params["norm"]}, answer)

        return linear_attention_in_turns(x, projections, finish, self.heads)


# Pixels of an image whose queries, keys and values are held at once: 128 MiB each at 128 channels.
_MAX_PIXELS = 2**18


def linear_attention(q: jax.Array, k: jax.Array, v: jax.Array, heads: int) -> jax.Array:
    """Return softmax_features(q) d^-1/2 [softmax_pixels(k)^T v / N] for each head.

    Args:
      q, k, v: [B, N, heads * d], heads in contiguous groups of d channels.
      heads: number of heads.

    Returns:
      [B, N, heads * d] in q's dtype; softmax statistics and the context are float32.
    """
    return _answer(q, _context(_summarise(k, v), q.shape[1], heads), heads)


def linear_attention_in_turns(
    x: jax.Array,
    projections: Sequence[Callable[[jax.Array], jax.Array]],
    finish: Callable[[jax.Array], jax.Array],
    heads: int,
) -> jax.Array:
    """Attend over a large image without ever holding all its queries, keys or values.

    One pass over blocks of columns sums up keys and values, a second one answers the queries.
    Columns, since rows may be split over devices.

    Args:
      x: [B, H, W, C].
      projections: of pixels [B, N, C] to queries, keys and values [B, N, heads * d].
      finish: applied to the attention's result at each pixel, [B, N, heads * d] -> [B, N, C].
      heads: number of heads.

    Returns:
      `finish(linear_attention(...))` as [B, H, W, C], the same but for rounding.
    """
    batch, height, width, channels = x.shape
    to_q, to_k, to_v = projections
    least = -(-width // max(1, _MAX_PIXELS // height))
    turns = next(n for n in range(least, width + 1) if width % n == 0)
    columns = width // turns

    def block(turn):
        part = jax.lax.dynamic_slice_in_dim(x, turn * columns, columns, axis=2)
        return part.reshape(batch, -1, channels)

    def summarise(turn):
        return _summarise(to_k(block(turn)), to_v(block(turn)))

    # Recomputed in the backward pass, which would otherwise keep what all turns hold.
    @jax.checkpoint
    def add(summary, turn):
        return _merge(summary, summarise(turn)), None

    @jax.checkpoint
    def answer(turn):
        part = finish(_answer(to_q(block(turn)), context, heads))
        return part.reshape(batch, height, columns, channels)

    summary, _ = jax.lax.scan(add, summarise(0), jnp.arange(1, turns))
    context = _context(summary, height * width, heads)
    return jnp.moveaxis(jax.lax.map(answer, jnp.arange(turns)), 0, 2).reshape(x.shape)


def _summarise(k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return max k [B, D], sum exp(k - max) [B, D] and exp(k - max)^T v [B, D, D], sums over N."""
    top = jax.lax.stop_gradient(k.astype(jnp.float32).max(axis=1))
    weights = jnp.exp(k.astype(jnp.float32) - top[:, None])
    context = jnp.einsum(
        "bnd,bne->bde", weights.astype(k.dtype), v, preferred_element_type=jnp.float32
    )
    return top, weights.sum(axis=1), context


def _merge(one, other):
    """Return the summary of two sets of pixels (Milakov and Gimelshein, arXiv 1805.02867)."""
    top = jnp.maximum(one[0], other[0])
    shrink, its = jnp.exp(one[0] - top), jnp.exp(other[0] - top)
    total = one[1] * shrink + other[1] * its
    return top, total, one[2] * shrink[..., None] + other[2] * its[..., None]


def _context(summary, pixels: int, heads: int) -> jax.Array:
    """Return softmax_pixels(k)^T v / N [B, heads * d, heads * d], zero between heads."""
    _, total, context = summary
    # softmax over pixels = exp(k - max) / sum.  The division is done here, where it is small.
    context = context / (total[:, :, None] * pixels)
    head = jnp.arange(total.shape[-1]) // (total.shape[-1] // heads)
    return jnp.where(head[:, None] == head[None, :], context, 0.0)


def _answer(q: jax.Array, context: jax.Array, heads: int) -> jax.Array:
    # One product for all heads; the blocks of the context that mix two heads are zero.
    batch, pixels, hidden = q.shape
    q_heads = q.astype(jnp.float32).reshape(batch, pixels, heads, -1)
    q_soft = jax.nn.softmax(q_heads, axis=-1).reshape(batch, pixels, hidden)
    q_soft = q_soft * (hidden // heads) ** -0.5
    return jnp.einsum("bnd,bde->bne", q_soft.astype(q.dtype), context.astype(q.dtype))
