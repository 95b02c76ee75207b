"""Attention over pixels whose cost is linear in their number (Shen et al., arXiv 1812.01243).

Keys and values are summed up to one small matrix, which every query then reads; large images do
both block by block.  What is linear in the pixels is multiplied with the small matrix instead:

    K^T V = (K^T X) W_v,    (Q C) W_out = Q (C W_out),

so neither values nor the heads' answers ever exist for all pixels.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import Dense
from tpgdiff_jax.backbones.products import gram, multiply_wide, pointwise
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.models.layers import PixelNorm
from tpgdiff_jax.precision import EXACT


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
        if self.is_initializing():
            return norm(out(jnp.split(qkv(x), 3, axis=-1)[0]))
        # Loops may not call bound modules; these are the same layers as functions of parameters.
        params = self.variables["params"]
        matrix = Dense(hidden, use_bias=False, parent=None, **self.dtypes)
        to_q, to_k, to_v = jnp.split(params["qkv"]["kernel"], 3, axis=1)
        projections = [
            functools.partial(matrix.apply, {"params": {"kernel": kernel}})
            for kernel in (to_q, to_k)
        ]
        small = (to_v, params["out"]["kernel"])
        unbound = norm.clone(parent=None, name=None)

        def finish(answer):
            answer = answer + params["out"]["bias"].astype(answer.dtype)
            return unbound.apply({"params": params["norm"]}, answer)

        if height * width > _MAX_PIXELS:
            return linear_attention_in_turns(x, projections, small, finish, self.heads)
        pixels = x.reshape(batch, -1, channels)
        return finish(linear_attention(pixels, projections, small, self.heads)).reshape(x.shape)


# Pixels of an image whose queries, keys and values are held at once: 128 MiB each at 128 channels.
_MAX_PIXELS = 2**18


Projection = Callable[[jax.Array], jax.Array]
Small = tuple[jax.Array, jax.Array]


def linear_attention(
    x: jax.Array, projections: Sequence[Projection], small: Small, heads: int
) -> jax.Array:
    """Return (softmax_features(q) d^-1/2 [softmax_pixels(k)^T v / N]) W_out, head by head.

    Args:
      x: pixels [B, N, C].
      projections: of pixels to queries and keys [B, N, heads * d], heads in contiguous groups.
      small: W_v [C, heads * d] and W_out [heads * d, C'].
      heads: number of heads.

    Returns:
      [B, N, C'] in x's dtype; softmax statistics and the small matrices are float32.
    """
    to_q, to_k = projections
    context = _context(_summarise(to_k(x), x), small, x.shape[1], heads)
    return _answer(to_q(x), context, heads)


def linear_attention_in_turns(
    x: jax.Array,
    projections: Sequence[Projection],
    small: Small,
    finish: Projection,
    heads: int,
) -> jax.Array:
    """Attend over a large image without ever holding all its queries or keys.

    One pass over blocks of columns sums up the keys, a second one answers the queries.  Columns,
    since rows may be split over devices.

    Args:
      x: [B, H, W, C].
      projections, small, heads: as in `linear_attention`.
      finish: applied to the attention's result at each pixel, [B, N, C] -> [B, N, C].

    Returns:
      `finish(linear_attention(...))` as [B, H, W, C], the same but for rounding.
    """
    batch, height, width, channels = x.shape
    to_q, to_k = projections
    least = -(-width // max(1, _MAX_PIXELS // height))
    turns = next(n for n in range(least, width + 1) if width % n == 0)
    columns = width // turns

    def block(turn):
        part = jax.lax.dynamic_slice_in_dim(x, turn * columns, columns, axis=2)
        return part.reshape(batch, -1, channels)

    def summarise(turn):
        return _summarise(to_k(block(turn)), block(turn))

    # Recomputed in the backward pass, which would otherwise keep what all turns hold.
    @jax.checkpoint
    def add(summary, turn):
        return _merge(summary, summarise(turn)), None

    @jax.checkpoint
    def answer(turn):
        part = finish(_answer(to_q(block(turn)), context, heads))
        return part.reshape(batch, height, columns, channels)

    summary, _ = jax.lax.scan(add, summarise(0), jnp.arange(1, turns))
    context = _context(summary, small, height * width, heads)
    return jnp.moveaxis(jax.lax.map(answer, jnp.arange(turns)), 0, 2).reshape(x.shape)


def _summarise(k: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return max k [B, D], sum exp(k - max) [B, D] and exp(k - max)^T x [B, D, C], sums over N."""
    top = jax.lax.stop_gradient(k.max(axis=1).astype(jnp.float32))
    weights = jnp.exp(k.astype(jnp.float32) - top[:, None])
    return top, weights.sum(axis=1), jax.vmap(gram)(weights.astype(k.dtype), x)


def _merge(one, other):
    """Return the summary of two sets of pixels (Milakov and Gimelshein, arXiv 1805.02867)."""
    top = jnp.maximum(one[0], other[0])
    shrink, its = jnp.exp(one[0] - top), jnp.exp(other[0] - top)
    total = one[1] * shrink + other[1] * its
    return top, total, one[2] * shrink[..., None] + other[2] * its[..., None]


def _context(summary, small: Small, pixels: int, heads: int) -> jax.Array:
    """Return d^-1/2 [softmax_pixels(k)^T x W_v / N] W_out, [B, heads * d, C'], head by head."""
    _, total, context = summary
    to_v, to_out = (kernel.astype(jnp.float32) for kernel in small)
    # softmax over pixels = exp(k - max) / sum.  The division is done here, where it is small.
    context = context / (total[:, :, None] * pixels)
    context = jnp.einsum("bdc,ce->bde", context, to_v, precision=EXACT)
    context = jnp.where(_share_head(total.shape[-1], heads), context, 0.0)
    context = context * (total.shape[-1] // heads) ** -0.5
    return jnp.einsum("bde,ec->bdc", context, to_out, precision=EXACT)


def _answer(q: jax.Array, context: jax.Array, heads: int) -> jax.Array:
    def read(softmax, q, context):
        return jax.vmap(pointwise)(softmax(q, heads), context)

    # For the gradient a CPU keeps the softmax alone, others q alone: a TPU would move more.
    own = functools.partial(read, _own_softmax)
    usual = jax.checkpoint(functools.partial(read, _softmax))
    return jax.lax.platform_dependent(q, context, cpu=own, default=usual)


def _softmax(q: jax.Array, heads: int) -> jax.Array:
    """Return the softmax over each head's features, [B, N, heads * d] in q's dtype."""
    return jax.nn.softmax(_by_head(q, heads), axis=-1).reshape(q.shape).astype(q.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _own_softmax(q: jax.Array, heads: int) -> jax.Array:
    """Return `_softmax`, whose gradient keeps the result alone: dq = s (ds - <ds, s>).

    The sum over each head is a product with ones: XLA's CPU backend is slow at short sums.
    """
    return _softmax(q, heads)


def _softmax_forward(q, heads):
    soft = _own_softmax(q, heads)
    return soft, soft


def _softmax_backward(heads, soft, dsoft):
    ones = _share_head(soft.shape[-1], heads).astype(soft.dtype)
    s, ds = soft.astype(jnp.float32), dsoft.astype(jnp.float32)
    along = multiply_wide((s * ds).astype(soft.dtype), ones)
    return ((s * (ds - along)).astype(soft.dtype),)


_own_softmax.defvjp(_softmax_forward, _softmax_backward)


def _share_head(hidden: int, heads: int) -> jax.Array:
    """Tell which features belong to one head, bool [heads * d, heads * d]."""
    head = jnp.arange(hidden) // (hidden // heads)
    return head[:, None] == head[None, :]


def _by_head(x: jax.Array, heads: int) -> jax.Array:
    return x.astype(jnp.float32).reshape(*x.shape[:-1], heads, -1)
