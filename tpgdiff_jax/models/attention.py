"""Full attention over pixels, for the deep levels, where there are few.

`SpatialTransformer` is the block of latent diffusion (Rombach et al., arXiv 2112.10752,
Appendix E.2.1): self-attention, cross-attention to a context, gated feed-forward.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.attention import attend
from tpgdiff_jax.backbones.convolution import Dense
from tpgdiff_jax.backbones.transformer import geglu
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.reporting.errors import UserError


class MultiHeadAttention(TypedModule):
    """Attend from x [B, N, C] to a context [B, M, D] (to x itself by default).

    Projections of q, k and v carry no bias, the output's does.

    Attributes:
      heads: their number.
      parts: over how many devices they are split.
      whole: each device has images and heads whole, see `attend`.
    """

    heads: int
    parts: int = 1
    whole: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None = None) -> jax.Array:
        channels = x.shape[-1]
        context = x if context is None else context
        q, k, v = (
            Dense(channels, use_bias=False, name=name, **self.dtypes)(source)
            for name, source in (("q", x), ("k", context), ("v", context))
        )
        q, k, v = (a.reshape(*a.shape[:2], self.heads, -1) for a in (q, k, v))
        out = attend(q, k, v, self.parts, whole=self.whole)
        return Dense(channels, name="out", **self.dtypes)(out.reshape(x.shape))


class SpatialTransformer(TypedModule):
    """Self-attention, cross-attention to the semantic token and a gated feed-forward.

    Attributes:
      head_dim: width of a head.
      context_dim: width of the context tokens the cross-attention is built for.
      parts, whole: as of `MultiHeadAttention`.
    """

    head_dim: int = 32
    context_dim: int = 512
    parts: int = 1
    whole: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, share: jax.Array | float = 1.0
    ) -> jax.Array:
        """Transform a feature map.

        Args:
          x: [B, H, W, C], C a multiple of `head_dim`.
          context: tokens [B, M, context_dim]; None leaves the cross-attention out.
          share: weight [B, 1, 1] of each image's cross-attention.
        """
        batch, height, width, channels = x.shape
        if channels % self.head_dim:
            raise UserError(
                f"model.width: {channels} channels at a transformer level are not a multiple of "
                f"the head width {self.head_dim}; choose another width or multipliers."
            )

        def norm(name):
            return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name, **self.dtypes)

        split = {"heads": channels // self.head_dim, "parts": self.parts, "whole": self.whole}
        h = nn.GroupNorm(
            32, epsilon=1e-6, use_fast_variance=False, name="group_norm", **self.dtypes
        )(x)
        h = Dense(channels, name="proj_in", **self.dtypes)(h).reshape(batch, -1, channels)
        attend = MultiHeadAttention(**split, name="self_attention", **self.dtypes)
        h = h + attend(norm("norm_self")(h))
        if context is not None or self.is_initializing():
            if context is None:
                context = jnp.zeros((batch, 1, self.context_dim), self.dtype)
            attend = MultiHeadAttention(**split, name="cross_attention", **self.dtypes)
            h = h + share * attend(norm("norm_cross")(h), context.astype(self.dtype))
        h = h + GatedFeedForward(name="feed_forward", **self.dtypes)(norm("norm_feed")(h))
        h = Dense(channels, zero_init=True, name="proj_out", **self.dtypes)(h)
        return h.reshape(x.shape) + x


class GatedFeedForward(TypedModule):
    """GEGLU feed-forward: Dense(value * gelu(gate)), 4x wide."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = Dense(8 * x.shape[-1], name="proj_in", **self.dtypes)(x)
        # The gradient keeps what is wide alone, and gates it again.
        return nn.remat(_GatedDense)(x.shape[-1], name="proj_out", **self.dtypes)(wide)


class _GatedDense(Dense):
    def __call__(self, wide: jax.Array) -> jax.Array:
        return super().__call__(geglu(wide))
