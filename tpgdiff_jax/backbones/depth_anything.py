"""Depth Anything (Yang et al., arXiv 2401.10891): relative depth from one image.

A DINOv2 trunk (Oquab et al., arXiv 2304.07193); the states after four of its blocks become a
pyramid of feature maps, which DPT's head (Ranftl et al., arXiv 2103.13413) fuses from coarse to
fine.  Only inference is here: weights come from files.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import SAME_3X3, Conv
from tpgdiff_jax.backbones.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    grey_levels,
    normalise,
)
from tpgdiff_jax.backbones.resizing import resize, resize_bytes
from tpgdiff_jax.backbones.transformer import layer_norm
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.backbones.vit import VisionTransformer
from tpgdiff_jax.reporting.errors import UserError

PATCH = 14


def depth_size(height: int, width: int, size: int, multiple: int) -> tuple[int, int]:
    """Choose the size at which the network sees an image.

    The side that has to change less becomes `size`, the other keeps the aspect ratio; both are
    rounded to a multiple.  Long images come out longer than `size`, never distorted by more than
    the rounding.

    Args:
      height, width: of the image, pixels.
      size: wanted length of one side, pixels.
      multiple: both sides are multiples of this, and at least this.

    Returns:
      (height, width), pixels.
    """
    scales = size / height, size / width
    # Ties go to the height.  Python rounds halves to even, as does the program whose weights we
    # use; there, too, the product comes before the division.
    scale = scales[1] if abs(1 - scales[1]) < abs(1 - scales[0]) else scales[0]
    rows, columns = (max(round(scale * side / multiple), 1) for side in (height, width))
    return rows * multiple, columns * multiple


def depth_input(images: jax.Array, size: int = 518) -> jax.Array:
    """Turn images into what Depth Anything looks at.

    8-bit, bicubic to `depth_size`, normalised.

    Args:
      images: float [B, H, W, 3] in [0, 1]; values between grey levels are rounded.
      size: wanted length of one side, pixels.

    Returns:
      float32 [B, h, w, 3], both sides multiples of `PATCH`.
    """
    wanted = depth_size(*images.shape[1:3], size, PATCH)
    view = resize_bytes(grey_levels(images), wanted, "cubic")
    return normalise(view, IMAGENET_MEAN, IMAGENET_STD)


def normalised_depth(depth: jax.Array) -> jax.Array:
    """Stretch each depth map to [0, 1].

    Args:
      depth: float32 [B, H, W, 1].

    Returns:
      float32 [B, H, W, 1]; zeros where a map is constant.
    """
    low = depth.min(axis=(1, 2, 3), keepdims=True)
    high = depth.max(axis=(1, 2, 3), keepdims=True)
    return (depth - low) / jnp.maximum(high - low, 1e-6)


class DepthAnything(TypedModule):
    """Estimate relative depth.

    Attributes:
      patch, width, layers, heads, activation: of the trunk.
      image_size: what the trunk's position table is made for; other sizes are legal.
      taps: numbers of the trunk's blocks, counted from 1 and rising, that the head sees.
      neck: channels of each tapped map.
      factors: by how much each is enlarged: whole numbers, or 1/2, 1/4 and so on.
      fusion: channels while the maps are fused.
      head: channels before the last layer.
      whole: each device has images whole, see `backbones.attention.attend`.
      dtype, param_dtype: of the computation and of the parameters; the last layer is float32.
    """

    patch: int
    width: int
    layers: int
    heads: int
    image_size: int
    taps: Sequence[int]
    neck: Sequence[int]
    factors: Sequence[float]
    fusion: int
    head: int
    activation: str = "gelu"
    whole: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Estimate.

        Args:
          images: normalised, float [B, H, W, 3], see `depth_input`; rows and columns beyond whole
            patches are cut.

        Returns:
          float32 [B, patch (H // patch), patch (W // patch), 1], not negative, larger where
          nearer, in no unit.

        Raises:
          UserError: taps, neck and factors of unequal length, or an image smaller than a patch.
        """
        if not len(self.taps) == len(self.neck) == len(self.factors):
            raise UserError(
                f"taps={self.taps}, neck={self.neck} and factors={self.factors} must be equally "
                "long."
            )
        x = self._fuse(self._pyramid(images))
        x = _conv3x3("head_conv", self.fusion // 2, **self.dtypes)(x)
        size = tuple(side // self.patch * self.patch for side in images.shape[1:3])
        x = resize(x, size, align_corners=True)
        x = nn.relu(_conv3x3("head_hidden", self.head, **self.dtypes)(x))
        last = nn.Dense(1, dtype=jnp.float32, param_dtype=self.param_dtype, name="head_depth")
        return nn.relu(last(x.astype(jnp.float32)))

    def _pyramid(self, images):
        """Return the tapped states as feature maps [B, h, w, fusion], fine to coarse."""
        batch, rows, columns = images.shape[0], *(n // self.patch for n in images.shape[1:3])
        trunk = VisionTransformer(
            self.patch,
            self.width,
            self.layers,
            self.heads,
            self.image_size // self.patch,
            activation=self.activation,
            epsilon=1e-6,
            layer_scale=True,
            patch_bias=True,
            taps=self.taps,
            whole=self.whole,
            name="trunk",
            **self.dtypes,
        )
        norm = layer_norm("norm_last", 1e-6, **self.dtypes)
        maps = []
        for index, tokens in enumerate(trunk(images)):
            x = norm(tokens)[:, 1:].reshape(batch, rows, columns, self.width)
            channels, factor = self.neck[index], self.factors[index]
            x = _Reassemble(channels, factor, name=f"reassemble_{index}", **self.dtypes)(x)
            maps.append(_conv3x3(f"neck_{index}", self.fusion, use_bias=False, **self.dtypes)(x))
        return maps

    def _fuse(self, maps):
        """Return one map of twice the finest one's size."""
        x = None
        for index, skip in enumerate(reversed(maps)):
            finer = maps[len(maps) - 2 - index] if index + 1 < len(maps) else None
            size = [2 * n for n in skip.shape[1:3]] if finer is None else finer.shape[1:3]
            if x is None:
                x = skip
            else:
                x = x + _PreActivation(name=f"fusion_{index}_skip", **self.dtypes)(skip)
            x = _PreActivation(name=f"fusion_{index}_refine", **self.dtypes)(x)
            x = resize(x, tuple(size), align_corners=True)
            x = nn.Dense(self.fusion, name=f"fusion_{index}_proj", **self.dtypes)(x)
        return x


class _Reassemble(TypedModule):
    """Change a map's channels, then its size."""

    features: int
    factor: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.features, name="proj", **self.dtypes)(x)
        if self.factor > 1:
            return _Expand(int(self.factor), name="expand", **self.dtypes)(x)
        if self.factor < 1:
            return _conv3x3("shrink", self.features, int(1 / self.factor), **self.dtypes)(x)
        return x


class _Expand(TypedModule):
    """Transposed convolution whose stride is its size: each pixel becomes a square of its own."""

    factor: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, features = x.shape
        normal = nn.initializers.normal(features**-0.5)
        shape = (features, self.factor, self.factor, features)
        kernel = self.param("kernel", normal, shape, self.param_dtype).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (features,), self.param_dtype)
        x = jnp.einsum("bhwi,ijko->bhjwko", x.astype(self.dtype), kernel)
        x = x.reshape(batch, height * self.factor, width * self.factor, features)
        return x + bias.astype(self.dtype)


class _PreActivation(TypedModule):
    """Residual unit: x + conv(relu(conv(relu(x))))."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = _conv3x3("conv_in", x.shape[-1], **self.dtypes)(nn.relu(x))
        return x + _conv3x3("conv_out", x.shape[-1], **self.dtypes)(nn.relu(h))


def _conv3x3(name, features, stride=1, use_bias=True, **dtypes):
    # Padded on both sides also where the stride is 2; "SAME" would pad one side only.
    how = {"stride": stride, "padding": SAME_3X3, "name": name}
    return Conv(features, use_bias, **how, **dtypes)
