"""Maps of where things are, as the structural prior reads them.

Depth and segmentation come from networks or from the caller; the maps computed here need no
weights.
"""

import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.preprocessing import luma
from tpgdiff_jax.backbones.resizing import resize

# The released program's, in the order of its learned embeddings; then ours, which need no weights.
RELEASED_CUES = ("depth", "segmentation", "dog")
CUES = (*RELEASED_CUES, "gradient")


def difference_of_gaussians(image: jax.Array) -> jax.Array:
    """Return edges and blobs: a 3x3 mean minus a 9x9 mean of the luma, scaled to [-1, 1].

    Args:
      image: float [B, H, W, 3] in [0, 1].

    Returns:
      float32 [B, H, W, 1]; borders count zeros as pixels (the divisor is fixed).
    """
    grey = luma(image)
    return _peak_scaled(_box_mean(grey, 3) - _box_mean(grey, 9))


def gradient_magnitude(image: jax.Array) -> jax.Array:
    """Return how steeply the luma changes, by Sobel's filters, scaled to [0, 1].

    Args:
      image: float [B, H, W, 3] in [0, 1].

    Returns:
      float32 [B, H, W, 1]; the border repeats the edge, so a flat image is zero everywhere.
    """
    grey = jnp.pad(luma(image), ((0, 0), (1, 1), (1, 1)), mode="edge")
    smooth_rows = grey[:, :-2] + 2 * grey[:, 1:-1] + grey[:, 2:]
    smooth_columns = grey[:, :, :-2] + 2 * grey[:, :, 1:-1] + grey[:, :, 2:]
    across = smooth_rows[:, :, 2:] - smooth_rows[:, :, :-2]
    down = smooth_columns[:, 2:] - smooth_columns[:, :-2]
    return _peak_scaled(jnp.sqrt(across**2 + down**2))


def _peak_scaled(maps):
    peak = jnp.abs(maps).max(axis=(1, 2), keepdims=True)
    return (maps / (peak + 1e-6))[..., None]


def _box_mean(image: jax.Array, size: int) -> jax.Array:
    sums = image
    for axis in (1, 2):
        window = [1, 1, 1]
        window[axis] = size
        sums = jax.lax.reduce_window(sums, 0.0, jax.lax.add, tuple(window), (1, 1, 1), "SAME")
    return sums / size**2


def resize_maps(maps: jax.Array, size: int, method: str) -> jax.Array:
    """Resize [B, h, w, 1] to [B, size, size, 1] as PyTorch's `interpolate` does.

    Args:
      maps: float [B, h, w, 1].
      size: side of the result in pixels.
      method: `linear` (half-pixel centres, no antialiasing) or `nearest` (floor(i h / size)).
    """
    if method == "linear":
        return resize(maps, (size, size))
    rows = jnp.arange(size) * maps.shape[1] // size
    columns = jnp.arange(size) * maps.shape[2] // size
    return maps[:, rows][:, :, columns]
