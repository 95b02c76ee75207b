"""Other renderings of a clean photo: of other tone and colour, or dark by intention."""

import numpy as np

from tpgdiff_jax.data.degradations.image_ops import (
    linear_to_srgb,
    smooth_field,
    smoothstep,
    srgb_to_linear,
)

# What stays of white, in sRGB values: more than `low_light` leaves of it at its weakest, so that
# highlights tell a photo which is dark by intention from one that lacks light.
_LEAST_WHITE = 0.5


def random_tone(rng: np.random.Generator, image: np.ndarray, jitter: float) -> np.ndarray:
    """Change a photo's tone and colour: each channel by a gamma curve of its own.

    Few photos show few colours: a network that never saw a dark photo takes each one for low light.

    Args:
      rng: source of randomness.
      image: uint8 [H, W, 3].
      jitter: standard deviation of the logarithm of the gammas' common part; each channel departs
        from it by half as much.  0 changes nothing.

    Returns:
      uint8 [H, W, 3].
    """
    if not jitter:
        return image
    gamma = np.exp(jitter * (rng.standard_normal() + 0.5 * rng.standard_normal(3)))
    levels = np.arange(256)[:, None] / 255
    table = np.round(levels**gamma * 255).astype(np.uint8)
    return np.stack([table[image[..., channel], channel] for channel in range(3)], axis=-1)


def dark_photo(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Render a clean photo as a dark, good one: low key, at night, lit in part, or vignetted.

    A network that saw dark photos only where light was lacking brightens every dark one.

    Args:
      rng: source of randomness.
      image: uint8 [H, W, 3].

    Returns:
      uint8 [H, W, 3], darker, without noise; white keeps at least half of its value somewhere.
    """
    way = rng.integers(4)
    levels = np.arange(256, dtype=np.float32) / 255
    light = srgb_to_linear(levels)
    if way == 0:  # Shadows lose most of their light, highlights none.
        left = np.float32(np.exp(rng.uniform(np.log(0.08), np.log(0.6))))
        table = linear_to_srgb(light * (left + (1 - left) * light))
    elif way == 1:
        table = levels ** np.float32(rng.uniform(1.3, 3.0))
    else:
        table = linear_to_srgb(light * np.float32(rng.uniform(srgb_to_linear(_LEAST_WHITE), 0.8)))
    if way == 3:
        table = levels * np.float32(rng.uniform(0.8, 1.0))
        lit = _lit_part(rng, *image.shape[:2])[..., None]
        return np.round(table[image] * lit * 255).astype(np.uint8)
    return np.round(table * 255).astype(np.uint8)[image]


def _lit_part(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return how much of each pixel's value a lamp or a vignette leaves, float32 [H, W]."""
    field = smooth_field(rng, height, width, int(rng.integers(1, 4)))
    low, high = np.quantile(field, rng.uniform(0.0, 0.6)), field.max()
    lit = smoothstep((field - low) / np.float32(max(high - low, 1e-3)))
    least = np.float32(rng.uniform(0.08, 0.5))
    return least + (1 - least) * lit
