"""A small encoder of the degradation and semantic priors, trained along with the UNet.

It stands in for the CLIP-sized branches of the paper where a model must be small: a fully
convolutional trunk whose pooled statistics give both vectors.  The degradation vector is taught by
classification of what was done to the image; the semantic vector by the restoration itself.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import Conv, Dense
from tpgdiff_jax.backbones.transformer import layer_norm
from tpgdiff_jax.backbones.typed import TypedModule

# Four convolutions of stride 2.
DOWNSAMPLING = 16


class CompactEncoder(TypedModule):
    """Look at an image once and say what degraded it and what it shows.

    Attributes:
      num_classes: number of degradation classes.
      width: channels of the first convolution.
      features: width of the two vectors.
    """

    num_classes: int
    width: int = 24
    features: int = 512

    @nn.compact
    def __call__(self, lq: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Encode.

        Args:
          lq: degraded images, float [B, H, W, 3] in [0, 1]; at least 16 pixels a side is sensible.

        Returns:
          degradation [B, features], semantic [B, features], class logits [B, num_classes]; float32.
        """
        x = lq.astype(self.dtype) * 2 - 1
        for index, multiple in enumerate((1, 2, 3, 4)):
            how = {"stride": 2, "padding": "same", "name": f"conv_{index}"}
            x = Conv(self.width * multiple, use_bias=True, silu=True, **how, **self.dtypes)(x)
        # Mean and spread of every channel: what is there, and how unevenly (noise, streaks, veil).
        x = x.astype(jnp.float32)
        mean = x.mean(axis=(1, 2))
        spread = jnp.sqrt(jnp.square(x - mean[:, None, None]).mean(axis=(1, 2)) + 1e-6)
        pooled = jnp.concatenate([mean, spread], axis=-1)
        pooled = layer_norm("norm", 1e-6, jnp.float32, self.param_dtype)(pooled)
        exact = {"exact": True, **self.dtypes}
        degradation = Dense(self.features, name="degradation", **exact)(pooled)
        logits = Dense(self.num_classes, name="classes", **exact)(nn.silu(degradation))
        semantic = Dense(self.features, name="semantic", **exact)(pooled)
        return degradation, semantic, logits
