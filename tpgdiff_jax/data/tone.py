"""Other renderings of a clean photo: of other tone, vivid, soft, pale, or dark by intention."""

import numpy as np
from PIL import Image

from tpgdiff_jax.data.degradations.image_ops import (
    linear_to_srgb,
    luma,
    smooth_field,
    smoothstep,
    srgb_to_linear,
)

# What stays of a dark photo's highlights, in sRGB values: more than the 0.48 that `low_light`
# leaves of white at severity 1, the least that is drawn, so that they tell a photo which is dark
# by intention from one that lacks light.
_LEAST_WHITE = 0.5
# Highlights are the brightest of so many pixels.
_HIGHLIGHT_SHARE = 0.002


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

    A network that saw dark photos only where light was lacking brightens every dark one.  Most so
    those of deep colours without any white, such as coloured paper in the shade: so half of the
    photos get deeper colours, and the highlights of a third sink to about the least allowed.

    Args:
      rng: source of randomness.
      image: uint8 [H, W, 3].

    Returns:
      uint8 [H, W, 3], darker, without noise.  Its highlights keep at least half of white, or what
      they were if that is less.
    """
    deeper = np.float32(max(0.0, rng.uniform(-1.5, 1.5)))
    floor, sinks = _LEAST_WHITE + 0.15 * rng.random() ** 2, rng.random() < 0.35
    dark = np.minimum(_darkened(rng, image), image / np.float32(255))
    if deeper:
        brightest = np.maximum(image.max(axis=-1, keepdims=True), 1)
        dark *= (image / brightest.astype(np.float32)) ** deeper
    # Most crops hold no white, so what is left of white says nothing about them.
    left = np.quantile(dark.max(axis=-1), 1 - _HIGHLIGHT_SHARE)
    if left < floor or sinks:
        gain = srgb_to_linear(np.float32(floor)) / srgb_to_linear(np.float32(max(left, 1e-3)))
        dark = np.minimum(linear_to_srgb(srgb_to_linear(dark) * gain), image / np.float32(255))
    return np.round(dark * 255).astype(np.uint8)


def _darkened(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Darken an image uint8 [H, W, 3] in one of four ways; float32 in [0, 1]."""
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
        return table[image] * _lit_part(rng, *image.shape[:2])[..., None]
    return table[image]


def _lit_part(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return how much of each pixel's value a lamp or a vignette leaves, float32 [H, W]."""
    field = smooth_field(rng, height, width, int(rng.integers(1, 4)))
    low, high = np.quantile(field, rng.uniform(0.0, 0.6)), field.max()
    lit = smoothstep((field - low) / np.float32(max(high - low, 1e-3)))
    least = np.float32(rng.uniform(0.08, 0.5))
    return least + (1 - least) * lit


def vivid_photo(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Render a clean photo with full contrast: its darkest parts black, its brightest white.

    Landscapes often hold some haze of their own; a network that takes them for clean is shy of
    removing any.  After this, dark parts are dark in some colour (the dark channel prior of He et
    al., "Single Image Haze Removal Using Dark Channel Prior", CVPR 2009).

    Args:
      rng: source of randomness.
      image: uint8 [H, W, 3].

    Returns:
      uint8 [H, W, 3].
    """
    pixels = image.astype(np.float32) / 255
    quantiles = rng.uniform(0.002, 0.08), rng.uniform(0.92, 0.999)
    black = np.quantile(pixels[::4, ::4].min(axis=-1), quantiles[0])
    white = np.quantile(pixels[::4, ::4].max(axis=-1), quantiles[1])
    pixels = (pixels - np.float32(black)) / np.float32(max(white - black, 0.2))
    grey = luma(pixels)[..., None]
    pixels = grey + np.float32(rng.uniform(1.0, 1.5)) * (pixels - grey)
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def pale_photo(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Render a clean photo pale and almost without colour, such as a white wall or an old print.

    A network that saw pale pictures only through haze turns pale walls black.  Colour stays the
    difference: hazy photos of this package keep some, or turn to the colour of their veil.

    Args:
      rng: source of randomness.
      image: uint8 [H, W, 3].

    Returns:
      uint8 [H, W, 3]; its darkest parts are 0.15 to 0.5 of white, its brightest 0.25 to 0.85
      brighter.
    """
    pixels = image.astype(np.float32) / 255
    grey = luma(pixels)[..., None]
    black, white = np.quantile(grey[::4, ::4], (0.01, 0.99))
    colour = np.float32(max(0.0, rng.uniform(-0.1, 0.1))) * (pixels - grey)
    darkest = rng.uniform(0.15, 0.5)
    brightest = darkest + rng.uniform(0.25, 1 - darkest)
    contrast = (grey - black) / np.float32(max(white - black, 0.1))
    grey = np.clip(darkest + (brightest - darkest) * contrast, darkest, brightest)
    return np.round(np.clip(grey + colour, 0, 1) * 255).astype(np.uint8)


def soft_photo(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Render a clean photo as soft as cameras deliver it at full size: its middle, enlarged.

    Photos that were made smaller for the web are sharp to the pixel.  A network that saw only such
    takes every other for blurred, and sharpens its grain.

    Args:
      rng: source of randomness.
      image: uint8 [H, W, 3].

    Returns:
      uint8 [H, W, 3], the central part enlarged 1.2 to 3 times.
    """
    height, width = image.shape[:2]
    factor = np.exp(rng.uniform(np.log(1.2), np.log(3.0)))
    tall, wide = (max(1, round(side / factor)) for side in (height, width))
    top, left = (height - tall) // 2, (width - wide) // 2
    part = Image.fromarray(image[top : top + tall, left : left + wide])
    kernels = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    return np.asarray(part.resize((width, height), kernels[rng.integers(len(kernels))]))
