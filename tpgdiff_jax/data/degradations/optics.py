"""What happens in the lens: blur."""

import numpy as np

from tpgdiff_jax.data.degradations.image_ops import blur


def sample_gaussian_blur(rng: np.random.Generator) -> dict[str, float]:
    """Draw the parameters of `gaussian_blur`: sigma of 1 to 2.5 pixels."""
    return {"sigma": rng.uniform(1.0, 2.5)}


def gaussian_blur(image: np.ndarray, *, sigma: float) -> np.ndarray:
    """Blur with a Gaussian point spread.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      sigma: standard deviation of the point spread in pixels.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    return np.clip(blur(image, sigma), 0, 1)
