"""Vision transformers (Dosovitskiy et al., arXiv 2010.11929), and CLIP's image tower.

CLIP: Radford et al., arXiv 2103.00020; the released program uses open_clip's ViT-B/32.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import Dense
from tpgdiff_jax.backbones.preprocessing import grey_levels, normalise
from tpgdiff_jax.backbones.resizing import resize, resize_bytes
from tpgdiff_jax.backbones.transformer import Block, layer_norm
from tpgdiff_jax.backbones.typed import TypedModule

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clip_view(images: jax.Array, size: int = 224) -> jax.Array:
    """Turn images into what CLIP looks at, as the released program does with Pillow.

    8-bit, short side to `size` by bicubic, centre crop, normalised.

    Args:
      images: float [B, H, W, 3] in [0, 1]; values between grey levels are rounded.
      size: side of the view, pixels.

    Returns:
      float32 [B, size, size, 3].
    """
    height, width = images.shape[1:3]
    short = min(height, width)
    resized = (size * height // short, size * width // short)
    corner = [round((side - size) / 2) for side in resized]
    # Only the crop is computed: of a long strip the resized picture would not fit into the memory.
    crop = tuple((first, first + size) for first in corner)
    view = resize_bytes(grey_levels(images), resized, "cubic", crop)
    return normalise(view, CLIP_MEAN, CLIP_STD)


class VisionTransformer(TypedModule):
    """Cut an image into patches and pass them, with a class token, through transformer blocks.

    Attributes:
      patch: side of a patch, pixels.
      width, layers, heads: of the transformer.
      grid: patches along a side for which the position table is made; other sizes interpolate it.
      mlp_ratio, activation, epsilon, layer_scale: of the blocks.
      patch_bias: add a bias to the patch embedding.
      norm_first: normalise the embeddings before the first block.
      taps: numbers of the blocks, counted from 1, whose output is returned.
      whole: each device has images whole, see `backbones.attention.attend`.
    """

    patch: int
    width: int
    layers: int
    heads: int
    grid: int
    mlp_ratio: int = 4
    activation: str = "gelu"
    epsilon: float = 1e-5
    layer_scale: bool = False
    patch_bias: bool = False
    norm_first: bool = False
    taps: Sequence[int] = ()
    whole: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """Transform.

        Args:
          images: normalised, float [B, H, W, 3]; rows and columns beyond whole patches are cut.

        Returns:
          tokens [B, 1 + (H // patch) (W // patch), width] after each tapped block (the last one by
          default), the class token first; not normalised.

        Raises:
          ValueError: an image smaller than one patch.
        """
        x = self._embed(images)
        if self.norm_first:
            x = layer_norm("norm_first", self.epsilon, **self.dtypes)(x)
        tapped = []
        taps = tuple(self.taps) or (self.layers,)
        for index in range(max(taps)):
            block = Block(
                self.heads,
                self.mlp_ratio,
                self.activation,
                self.epsilon,
                self.layer_scale,
                self.whole,
                name=f"block_{index}",
                **self.dtypes,
            )
            x = block(x)
            if index + 1 in taps:
                tapped.append(x)
        return tapped

    def _embed(self, images):
        batch, height, width, _ = images.shape
        rows, columns = height // self.patch, width // self.patch
        if not rows or not columns:
            raise ValueError(f"A {height}x{width} image holds no {self.patch}-pixel patch.")
        side = (self.patch, self.patch)
        embed = nn.Conv(
            self.width,
            side,
            side,
            "VALID",
            use_bias=self.patch_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="patches",
        )
        x = embed(images.astype(self.dtype)).reshape(batch, rows * columns, self.width)
        normal = nn.initializers.normal(self.width**-0.5)
        token = self.param("class_token", normal, (self.width,), self.param_dtype)
        shape = (1 + self.grid**2, self.width)
        table = self.param("positions", normal, shape, self.param_dtype)
        token = jnp.broadcast_to(token.astype(self.dtype), (batch, 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        return x + resize_positions(table, (rows, columns)).astype(self.dtype)


def resize_positions(table: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Interpolate a position table to another grid of patches, bicubic without antialiasing.

    Args:
      table: [1 + G^2, C]; the first row is the class token's and stays.
      grid: (rows, columns) wanted.

    Returns:
      [1 + rows * columns, C].
    """
    side = round((table.shape[0] - 1) ** 0.5)
    square = table[1:].reshape(1, side, side, -1)
    resized = resize(square, grid, "cubic").reshape(grid[0] * grid[1], -1)
    return jnp.concatenate([table[:1], resized])


class ClipImageTower(TypedModule):
    """CLIP's image encoder: a vision transformer, its class token normalised and projected.

    Attributes:
      patch, width, layers, heads: of the trunk.
      image_size: what the position table is made for; other sizes are legal.
      features: width of the embedding.
      activation: `gelu` (open_clip's LAION weights) or `quick_gelu` (OpenAI's).
    """

    patch: int
    width: int
    layers: int
    heads: int
    image_size: int
    features: int
    activation: str = "gelu"

    def view(self, images: jax.Array) -> jax.Array:
        """Return what the tower looks at: `clip_view` of images [B, H, W, 3] in [0, 1]."""
        return clip_view(images, self.image_size)

    @nn.compact
    def __call__(self, view: jax.Array) -> jax.Array:
        """Embed.

        Args:
          view: normalised images, float [B, H, W, 3]; see `clip_view`.

        Returns:
          float32 [B, features], not normalised to unit length.
        """
        trunk = VisionTransformer(
            self.patch,
            self.width,
            self.layers,
            self.heads,
            self.image_size // self.patch,
            activation=self.activation,
            norm_first=True,
            name="trunk",
            **self.dtypes,
        )
        token = trunk(view)[-1][:, 0]
        token = layer_norm("norm_last", 1e-5, jnp.float32, self.param_dtype)(token)
        return Dense(self.features, use_bias=False, exact=True, name="proj", **self.dtypes)(token)
