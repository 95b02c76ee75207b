"""A small convolutional image tower that sees every pixel: student and backbone of small models.

CLIP's view is the picture resized to 224 pixels, which averages fine noise, thin streaks and coding
blocks of a large photograph away.  This tower looks at the picture's own pixels, of any size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import SAME_3X3, Conv, Conv3x3, Dense
from tpgdiff_jax.backbones.transformer import layer_norm
from tpgdiff_jax.backbones.typed import TypedModule


class ConvTower(TypedModule):
    """Embed images by the statistics of their features at every scale.

    Each stage halves the resolution and adds a residual convolution; the mean and the spread of
    each channel over the image, of all stages, are projected to the embedding.

    Attributes:
      widths: channels of each stage.
      features: width of the embedding.
      dtype, param_dtype: of the computation and of the parameters; the statistics are float32.
    """

    widths: tuple[int, ...]
    features: int

    def view(self, images: jax.Array) -> jax.Array:
        """Return what the tower looks at: float [B, H, W, 3] in [0, 1] -> in [-1, 1]."""
        return images * 2 - 1

    @nn.compact
    def __call__(self, view: jax.Array) -> jax.Array:
        """Embed.

        Args:
          view: images of `view`, float [B, H, W, 3]; at least 16 pixels a side is sensible.

        Returns:
          float32 [B, features], not normalised to unit length.
        """
        x, statistics = view, []
        for index, width in enumerate(self.widths):
            down = {"stride": 2, "padding": SAME_3X3, "name": f"down_{index}"}
            down["exact_input"] = index == 0  # dark pixels lie at -1, where bfloat16 is coarse
            x = Conv(width, use_bias=True, silu=True, **down, **self.dtypes)(x)
            conv = Conv3x3(width, use_bias=True, silu=True, name=f"conv_{index}", **self.dtypes)
            x = conv(x, residual=x)
            statistics += _mean_and_spread(x)
        pooled = jnp.concatenate(statistics, axis=-1)
        pooled = layer_norm("norm", 1e-6, jnp.float32, self.param_dtype)(pooled)
        return Dense(self.features, exact=True, name="proj", **self.dtypes)(pooled)


def _mean_and_spread(x: jax.Array) -> list[jax.Array]:
    """Return mean and standard deviation of each channel over the image, float32 [B, C] each."""
    x = x.astype(jnp.float32)
    mean = x.mean(axis=(1, 2))
    variance = jnp.square(x - mean[:, None, None]).mean(axis=(1, 2))
    return [mean, jnp.sqrt(variance + 1e-6)]
