"""The conditional UNet that estimates the noise (or x0, or v) of a diffused image.

Three priors enter (TPGDiff, arXiv 2601.20306): DEGRADATION at every level, added to the time
embedding; STRUCTURE at all but the deepest level, as FiLM; SEMANTICS in the deepest level and the
middle, by cross-attention.  Each is optional when the network is built and when it is called.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import Conv, Conv3x3
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.models.attention import SpatialTransformer
from tpgdiff_jax.models.layers import (
    DegradationPrompt,
    Downsample,
    PixelNorm,
    ResBlock,
    StructuralFiLM,
    TimeEmbedding,
    Upsample,
    join_channels,
)
from tpgdiff_jax.models.linear_attention import LinearAttention
from tpgdiff_jax.priors import BRANCHES, Priors
from tpgdiff_jax.priors.semantic import unit_length
from tpgdiff_jax.reporting.errors import UserError

REMAT = ("none", "attention", "blocks")


class PreNormAttention(TypedModule):
    """x + attention(norm(x)); a transformer where `full`, linear attention elsewhere."""

    full: bool
    heads: int = 4
    head_dim: int = 32
    context_dim: int = 512
    zero_init: bool = False
    parts: int = 1
    whole: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, share: jax.Array | float = 1.0
    ) -> jax.Array:
        if self.full:
            split = {"parts": self.parts, "whole": self.whole}
            attention = SpatialTransformer(
                self.head_dim, self.context_dim, **split, name="attention", **self.dtypes
            )
        else:
            attention = LinearAttention(
                self.heads, self.head_dim, self.zero_init, name="attention", **self.dtypes
            )
        return x + attention(PixelNorm(name="norm", **self.dtypes)(x), context, share)


class GuidedUNet(TypedModule):
    """Predict what is needed to undo one diffusion step, given the degraded image and its priors.

    What all UNets of this project share: the call, its checks, and how the degradation and the
    structure enter.  Subclasses give the layers between, as `_run`.

    Attributes:
      width: nf, channels at full resolution; even, at least 4.
      multipliers: output width of each level in units of `width`, shallow to deep.
      use_degradation, use_semantic, use_structure: build the layers of that prior.
      prior_dim: width of the degradation and semantic vectors.
      structure_dim: width of a structural token.
      identity_init: start the last convolution and all modulations at zero and the degradation
        prompt wide; small networks then learn faster, and safely.
      remat: what the backward pass computes again instead of keeping it: `none`; `attention`, the
        insides of attention layers; `blocks`, those of residual blocks too.
      dtype, param_dtype: of the computation and of the parameters; norms, softmax and embeddings'
        angles stay float32.
    """

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    use_degradation: bool = True
    use_semantic: bool = True
    use_structure: bool = True
    prior_dim: int = 512
    structure_dim: int = 256
    identity_init: bool = False
    remat: str = "none"

    @nn.compact
    def __call__(
        self, x_t: jax.Array, mu: jax.Array, t: jax.Array, priors: Priors | None = None
    ) -> jax.Array:
        """Denoise.

        Args:
          x_t: diffusion states, float [B, H, W, 3]; any H and W.
          mu: degraded images, float [B, H, W, 3] in [0, 1].
          t: times in 1..T, int or float [B].
          priors: the images' priors; a field that is None, or priors=None, leaves that branch out.

        Returns:
          float32 [B, H, W, 3].

        Raises:
          UserError: a prior is given that this network was built without, or an odd width.
        """
        priors = Priors() if priors is None else priors
        self._check(priors)
        height, width = x_t.shape[1:3]
        x = jnp.concatenate([x_t - mu, mu], axis=-1)
        x = pad_to_multiple(x, 2 ** len(self.multipliers))  # as the released program pads
        x = self._run(x, t, priors)
        return x[:, :height, :width].astype(jnp.float32)

    def _check(self, priors: Priors) -> None:
        if self.width < 4 or self.width % 2:
            raise UserError(f"model.width={self.width} must be an even number, at least 4.")
        if self.remat not in REMAT:
            raise UserError(
                f"model.remat={self.remat!r} is unknown; expected one of {', '.join(REMAT)}."
            )
        for name in BRANCHES:
            if getattr(priors, name) is not None and not getattr(self, f"use_{name}"):
                raise ValueError(
                    f"priors.{name} is given, but the network was built with use_{name}=False; "
                    "pass None or build it with that prior."
                )

    def _run(self, x: jax.Array, t: jax.Array, priors: Priors) -> jax.Array:
        """Turn the padded input [B, H, W, 6] into the answer [B, H, W, 3]."""
        raise NotImplementedError

    def _add_degradation(self, time, priors):
        degradation = priors.degradation
        if not self.use_degradation or (degradation is None and not self.is_initializing()):
            return time
        if degradation is None:
            degradation = jnp.zeros((time.shape[0], self.prior_dim))
        prompt = DegradationPrompt(
            time.shape[-1], self.identity_init, name="degradation", **self.dtypes
        )
        return time + priors.share("degradation", 2) * prompt(degradation)

    def _film(self, x, priors, active, name):
        structure = priors.structure
        if not self.use_structure or (structure is None and not self.is_initializing()):
            return x
        if structure is None:
            structure = jnp.zeros((x.shape[0], 1, self.structure_dim))
        film = StructuralFiLM(active, self.identity_init, name=name, **self.dtypes)
        token = structure.astype(jnp.float32).mean(axis=1)
        return film(x, token, priors.share("structure", 2))


class ConditionalUNet(GuidedUNet):
    """The released program's UNet.

    Attributes:
      attention_heads, head_dim: of the linear attention; the transformers share `head_dim`.
      head_parts: over how many devices the transformers' heads are split (`mesh.tensor`).
      whole: each device has images and heads whole, see `backbones.attention.attend`.
      first_attention_level: levels above this one (0 is full resolution) go without attention.
      Those of `GuidedUNet`.  Without semantics the deepest level and the middle use linear
      attention, too.  `identity_init` starts the linear attention's gains at zero as well.
    """

    attention_heads: int = 4
    head_dim: int = 32
    first_attention_level: int = 0
    head_parts: int = 1
    whole: bool = False

    def _run(self, x, t, priors):
        depth = len(self.multipliers)
        widths_out = [self.width * m for m in self.multipliers]
        widths_in = [self.width, *widths_out[:-1]]
        time = TimeEmbedding(self.width, name="time_embedding", **self.dtypes)(t)
        time = self._add_degradation(time, priors)
        context = None
        res_block = nn.remat(ResBlock) if self.remat == "blocks" else ResBlock
        attention = PreNormAttention if self.remat == "none" else nn.remat(PreNormAttention)
        if priors.semantic is not None:
            context = unit_length(priors.semantic)[:, None, :]

        def block(features, name, x):
            return res_block(features, self.identity_init, name=name, **self.dtypes)(x, time)

        def attend(level, name, x):
            if level < self.first_attention_level:
                return x
            full = level >= depth - 1
            layer = attention(
                full and self.use_semantic,
                self.attention_heads,
                self.head_dim,
                self.prior_dim,
                self.identity_init,
                self.head_parts,
                self.whole,
                name=name,
                **self.dtypes,
            )
            return layer(x, context, priors.share("semantic", 3, self.dtype))

        def film(level, name, x):
            return self._film(x, priors, level < depth - 1, name)

        stem = Conv(self.width, size=7, name="stem", **self.dtypes)(x)
        x, skips = stem, []
        for level in range(depth):
            deepest, name = level == depth - 1, f"down_{level}"
            x = block(widths_in[level], f"{name}_block_0", x)
            x = film(level, f"{name}_film", x)
            skips.append(x)
            x = block(widths_in[level], f"{name}_block_1", x)
            x = attend(level, f"{name}_attention", x)
            skips.append(x)
            resample = Conv3x3 if deepest else Downsample
            x = resample(widths_out[level], name=f"{name}_resample", **self.dtypes)(x)

        x = block(widths_out[-1], "middle_block_0", x)
        x = attend(depth, "middle_attention", x)
        x = block(widths_out[-1], "middle_block_1", x)

        for level in reversed(range(depth)):
            name = f"up_{level}"
            x = block(widths_out[level], f"{name}_block_0", join_channels(x, skips.pop()))
            x = film(level, f"{name}_film", x)
            x = block(widths_out[level], f"{name}_block_1", join_channels(x, skips.pop()))
            x = attend(level, f"{name}_attention", x)
            # The gradient keeps the small image and enlarges it again.
            resample = Conv3x3 if level == 0 else nn.remat(Upsample)
            x = resample(widths_in[level], name=f"{name}_resample", **self.dtypes)(x)

        x = block(self.width, "final_block", join_channels(x, stem))
        last = Conv3x3(3, True, self.identity_init, name="final_conv", **self.dtypes)
        return last(x)


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Reflect-pad [B, H, W, C] at the bottom and right to multiples of `multiple`.

    Sides too short to reflect that far (a pad of H or more) repeat their edge for the rest.
    """
    for axis in (1, 2):
        missing = -x.shape[axis] % multiple
        reflected = min(missing, x.shape[axis] - 1)
        for amount, mode in ((reflected, "reflect"), (missing - reflected, "edge")):
            if amount:
                widths = [(0, 0)] * 4
                widths[axis] = (0, amount)
                x = jnp.pad(x, widths, mode=mode)
    return x
