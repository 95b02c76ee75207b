"""SegFormer (Xie et al., arXiv 2105.15203): semantic segmentation.

A hierarchical transformer whose keys and values come from a smaller map, and a head that is one
matrix per stage and one for all of them.  Only inference is here: weights come from files.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    grey_levels,
    normalise,
)
from tpgdiff_jax.backbones.resizing import resize, resize_bytes
from tpgdiff_jax.backbones.transformer import Attention, layer_norm
from tpgdiff_jax.backbones.typed import TypedModule

# Of all norms.  The published configuration says 1e-6, but the program never reads it.
_EPSILON = 1e-5


def segmentation_input(images: jax.Array, size: int = 512) -> jax.Array:
    """Turn images into what SegFormer looks at.

    8-bit, bilinear to a square whatever the aspect ratio, normalised.

    Args:
      images: float [B, H, W, 3] in [0, 1]; values between grey levels are rounded.
      size: side of the square, pixels.

    Returns:
      float32 [B, size, size, 3].
    """
    view = resize_bytes(grey_levels(images), (size, size), "linear")
    return normalise(view, IMAGENET_MEAN, IMAGENET_STD)


def segmentation_map(logits: jax.Array, size: tuple[int, int] | None = None) -> jax.Array:
    """Label each pixel with its likeliest class.

    Args:
      logits: float32 [B, h, w, classes].
      size: (height, width) to which the logits are first resized, bilinear; None leaves them.

    Returns:
      float32 [B, *size, 1] in [0, 1]: the class's number, from 0, divided by the last one's.
    """
    classes = logits.shape[-1]
    if size is not None:
        logits = resize(logits, size)
    labels = jnp.argmax(logits, axis=-1, keepdims=True)
    return labels.astype(jnp.float32) / max(classes - 1, 1)


class SegFormer(TypedModule):
    """Score the classes of each pixel.

    Attributes:
      widths, depths, heads: channels, number of blocks and of attention heads of each stage.
      reductions: in each stage, by how much keys and values are coarser than queries.
      patch_sizes, strides: of the convolution that starts each stage.
      mlp_ratios: width of the feed-forward layers in units of the stage's.
      decoder: channels of the head.
      num_classes: number of classes.
      whole: each device has images whole, see `backbones.attention.attend`.
      dtype, param_dtype: of the computation and of the parameters; the last layer is float32.
    """

    widths: Sequence[int]
    depths: Sequence[int]
    heads: Sequence[int]
    reductions: Sequence[int]
    patch_sizes: Sequence[int]
    strides: Sequence[int]
    mlp_ratios: Sequence[int]
    decoder: int
    num_classes: int
    whole: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Score.

        Args:
          images: normalised, float [B, H, W, 3]; see `segmentation_input`.

        Returns:
          logits, float32 [B, h, w, num_classes] at the first stage's size: with a stride of 4
          ceil(H / 4) x ceil(W / 4).

        Raises:
          ValueError: an image so small that a stage would have no keys.
        """
        maps = []
        x = images.astype(self.dtype)
        for index, width in enumerate(self.widths):
            stage = _Stage(
                width,
                self.depths[index],
                self.heads[index],
                self.reductions[index],
                self.patch_sizes[index],
                self.strides[index],
                self.mlp_ratios[index],
                self.whole,
                name=f"stage_{index}",
                **self.dtypes,
            )
            x = stage(x)
            projected = nn.Dense(self.decoder, name=f"project_{index}", **self.dtypes)(x)
            maps.append(resize(projected, (maps or [x])[0].shape[1:3]))
        # Coarse maps first: the order in which the weights lie.
        x = jnp.concatenate(maps[::-1], axis=-1)
        x = nn.Dense(self.decoder, use_bias=False, name="fuse", **self.dtypes)(x)
        x = nn.relu(FrozenBatchNorm(name="batch_norm", **self.dtypes)(x))
        last = nn.Dense(
            self.num_classes, dtype=jnp.float32, param_dtype=self.param_dtype, name="classifier"
        )
        return last(x.astype(jnp.float32))


class FrozenBatchNorm(TypedModule):
    """Batch norm with statistics that never change; they are parameters like its gain and bias."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        starts = {"scale": ones, "bias": zeros, "mean": zeros, "var": ones}
        scale, bias, mean, var = (
            self.param(name, start, (x.shape[-1],), self.param_dtype).astype(jnp.float32)
            for name, start in starts.items()
        )
        y = (x.astype(jnp.float32) - mean) * (jax.lax.rsqrt(var + _EPSILON) * scale) + bias
        return y.astype(self.dtype)


class _Stage(TypedModule):
    """Shrink a map by a convolution, then pass its pixels through transformer blocks."""

    width: int
    depth: int
    heads: int
    reduction: int
    patch_size: int
    stride: int
    mlp_ratio: int
    whole: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padding = self.patch_size // 2
        embed = nn.Conv(
            self.width,
            (self.patch_size, self.patch_size),
            (self.stride, self.stride),
            padding,
            name="embed",
            **self.dtypes,
        )
        x = self._norm("norm_embed", embed(x))
        if min(x.shape[1:3]) < self.reduction:
            raise ValueError(
                f"The image is too small: a {x.shape[1]}x{x.shape[2]} map cannot be reduced "
                f"{self.reduction}-fold."
            )
        for index in range(self.depth):
            sizes = (self.heads, self.reduction, self.mlp_ratio)
            block = _Block(*sizes, self.whole, name=f"block_{index}", **self.dtypes)
            x = block(x)
        return self._norm("norm_last", x)

    def _norm(self, name, x):
        return layer_norm(name, _EPSILON, **self.dtypes)(x)


class _Block(TypedModule):
    """x + attention(norm(x)), then x + mlp(norm(x)), on maps [B, H, W, C]."""

    heads: int
    reduction: int
    mlp_ratio: int
    whole: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = self._norm("norm_attention", x)
        attention = Attention(self.heads, self.whole, name="attention", **self.dtypes)
        x = x + attention(_tokens(h), self._keys(h)).reshape(x.shape)
        h = self._norm("norm_mlp", x)
        return x + _MixMlp(self.mlp_ratio, name="mlp", **self.dtypes)(h)

    def _keys(self, x):
        """Return what keys and values are made of; None means the queries themselves."""
        if self.reduction == 1:
            return None
        side = (self.reduction, self.reduction)
        x = nn.Conv(x.shape[-1], side, side, "VALID", name="reduce", **self.dtypes)(x)
        return _tokens(self._norm("norm_reduce", x))

    def _norm(self, name, x):
        return layer_norm(name, _EPSILON, **self.dtypes)(x)


class _MixMlp(TypedModule):
    """Dense, depthwise 3x3 convolution, GELU, Dense; its zero padding tells pixels their place."""

    ratio: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features, hidden = x.shape[-1], self.ratio * x.shape[-1]
        x = nn.Dense(hidden, name="dense_in", **self.dtypes)(x)
        depthwise = nn.Conv(
            hidden, (3, 3), feature_group_count=hidden, name="depthwise", **self.dtypes
        )
        x = nn.gelu(depthwise(x), approximate=False)
        return nn.Dense(features, name="dense_out", **self.dtypes)(x)


def _tokens(x):
    return x.reshape(x.shape[0], -1, x.shape[-1])
