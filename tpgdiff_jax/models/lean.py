"""A UNet of plain 3x3 convolutions, guided by the same three priors: for small weights.

Compared with the released UNet (`unet.ConditionalUNet`) it adds skips instead of joining them,
resamples by moving pixels into channels (Shi et al., arXiv 1609.05158) and goes without attention:
at equal cost it has more convolutions, which run near the peak of CPUs and GPUs alike.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import Conv3x3, Dense
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.models.layers import TimeEmbedding
from tpgdiff_jax.models.unet import GuidedUNet
from tpgdiff_jax.priors import Priors
from tpgdiff_jax.priors.semantic import unit_length
from tpgdiff_jax.reporting.errors import UserError


class LeanBlock(TypedModule):
    """Two 3x3 convolutions, scaled and shifted in between, added to the input.

    out = x + conv(SiLU(conv(x) (1 + scale) + shift)),  (scale, shift) = Dense(SiLU(time))

    The last convolution and the modulation start at zero, so a young network of any depth is the
    identity.
    """

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        features = x.shape[-1]
        how = {"zero_init": True, "exact": True, **self.dtypes}
        modulate = Dense(2 * features, name="modulation", **how)
        scale, shift = jnp.split(modulate(nn.silu(time)), 2, axis=-1)
        h = Conv3x3(features, silu=True, name="conv_in", **self.dtypes)(x, scale, shift)
        last = Conv3x3(features, use_bias=True, zero_init=True, name="conv_out", **self.dtypes)
        return last(h, residual=x)


class SemanticShift(TypedModule):
    """Cross-attention to the one semantic token, in closed form.

    A softmax over one token is 1 whatever the query, so W_o W_v z reaches every pixel: one matrix,
    one summand per image.  It starts at zero.
    """

    @nn.compact
    def __call__(self, x: jax.Array, semantic: jax.Array, share: jax.Array | float) -> jax.Array:
        how = {"zero_init": True, "exact": True, **self.dtypes}
        value = Dense(x.shape[-1], use_bias=False, name="value", **how)
        summand = share * value(unit_length(semantic))
        return (x + summand[:, None, None, :]).astype(self.dtype)


class LeanUNet(GuidedUNet):
    """The lean UNet.

    Attributes:
      blocks: residual blocks of each level, shallow to deep, on the way down and again on the way
        up.
      middle_blocks: residual blocks below the deepest level.
      Those of `GuidedUNet`; `remat="attention"` has nothing to recompute here.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    middle_blocks: int = 2

    def _run(self, x, t, priors):
        widths = [self.width * m for m in self.multipliers]
        deepest = len(widths) - 1
        time = TimeEmbedding(self.width // 2, name="time_embedding", **self.dtypes)(t)
        time = self._add_degradation(time, priors)
        lean_block = nn.remat(LeanBlock) if self.remat == "blocks" else LeanBlock

        def run_blocks(x, name, count):
            for index in range(count):
                x = lean_block(name=f"{name}_block_{index}", **self.dtypes)(x, time)
            return x

        def guide(x, level, name):
            if level < deepest:
                return self._film(x, priors, True, f"{name}_film")
            return self._shift(x, priors, f"{name}_semantic")

        x = Conv3x3(widths[0], use_bias=True, exact_input=True, name="stem", **self.dtypes)(x)
        stem, skips = x, []
        for level, width in enumerate(widths):
            name = f"down_{level}"
            if level:
                x = Dense(width, name=f"{name}_resample", **self.dtypes)(pixels_to_channels(x))
            x = run_blocks(guide(x, level, name), name, self.blocks[level])
            skips.append(x)

        x = self._shift(x, priors, "middle_semantic")
        x = run_blocks(x, "middle", self.middle_blocks)

        for level in reversed(range(len(widths))):
            name = f"up_{level}"
            x = guide(x + skips.pop(), level, name)
            x = run_blocks(x, name, self.blocks[level])
            if level:
                widen = Dense(4 * widths[level - 1], name=f"{name}_resample", **self.dtypes)
                x = channels_to_pixels(widen(x))
        # The answer is an image, which bfloat16 would round to fewer than 256 levels.
        exact = self.dtypes | {"dtype": jnp.float32}
        return Conv3x3(3, True, self.identity_init, name="final_conv", **exact)(x + stem)

    def _check(self, priors: Priors) -> None:
        super()._check(priors)
        if len(self.blocks) != len(self.multipliers):
            raise UserError(
                f"model.blocks={self.blocks} has {len(self.blocks)} numbers, "
                f"model.multipliers={self.multipliers} has {len(self.multipliers)}; give each "
                "level its number of blocks."
            )

    def _shift(self, x, priors, name):
        semantic = priors.semantic
        if not self.use_semantic or (semantic is None and not self.is_initializing()):
            return x
        if semantic is None:
            semantic = jnp.zeros((x.shape[0], self.prior_dim))
        share = priors.share("semantic", 2)
        return SemanticShift(name=name, **self.dtypes)(x, semantic, share)


def pixels_to_channels(x: jax.Array) -> jax.Array:
    """Move squares of 2x2 pixels into the channels: [B, H, W, C] -> [B, H/2, W/2, 4C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).swapaxes(2, 3)
    return x.reshape(b, h // 2, w // 2, 4 * c)


def channels_to_pixels(x: jax.Array) -> jax.Array:
    """Undo `pixels_to_channels`: [B, H, W, 4C] -> [B, 2H, 2W, C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).swapaxes(2, 3)
    return x.reshape(b, 2 * h, 2 * w, c // 4)
