"""Turn images into what frozen networks look at: 8-bit grey levels, then mean 0 and deviation 1."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LUMA = (0.299, 0.587, 0.114)


def luma(images: jax.Array) -> jax.Array:
    """Return the luma [..., H, W] of RGB images [..., H, W, 3], float32 (weights of BT.601).

    A sum, since a product would round its factors on accelerators.
    """
    return (images.astype(jnp.float32) * jnp.array(_LUMA, jnp.float32)).sum(axis=-1)


def grey_levels(images: jax.Array) -> jax.Array:
    """Round images to 8 bits, as if they had been saved and loaded.

    Args:
      images: float [B, H, W, C] in [0, 1]; values outside are clipped.

    Returns:
      float32 [B, H, W, C] in [0, 255], whole numbers.
    """
    return jnp.round(jnp.clip(images.astype(jnp.float32), 0, 1) * 255)


def normalise(levels: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Shift and scale each channel by the statistics a network was trained with.

    Args:
      levels: float32 [B, H, W, C] in [0, 255].
      mean, std: of each channel, for images in [0, 1].

    Returns:
      float32 [B, H, W, C].
    """
    return (levels / 255 - jnp.array(mean)) / jnp.array(std)
