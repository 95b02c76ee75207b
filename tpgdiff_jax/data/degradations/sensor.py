"""What happens on the sensor: noise and underexposure."""

import numpy as np

from tpgdiff_jax.data.degradations.image_ops import linear_to_srgb, srgb_to_linear


def sample_gaussian_noise(rng: np.random.Generator) -> dict[str, float]:
    """Draw the parameters of `gaussian_noise`: sigma of 15 to 50 grey levels."""
    return {"sigma": rng.uniform(15, 50), "seed": int(rng.integers(2**31))}


def gaussian_noise(image: np.ndarray, *, sigma: float, seed: int) -> np.ndarray:
    """Add white Gaussian noise.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      sigma: standard deviation in grey levels of 0..255.
      seed: of the noise.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + np.float32(sigma / 255) * noise, 0, 1)


def sample_low_light(rng: np.random.Generator) -> dict[str, float]:
    """Draw the parameters of `low_light`: 6 to 30 per cent of the light, little noise."""
    return {
        "exposure": float(np.exp(rng.uniform(np.log(0.06), np.log(0.3)))),
        "read_noise": rng.uniform(0.5, 2.0),
        "seed": int(rng.integers(2**31)),
    }


def low_light(image: np.ndarray, *, exposure: float, read_noise: float, seed: int) -> np.ndarray:
    """Expose too briefly: scale the light in linear space, then add the sensor's read noise.

    Args:
      image: float32 [H, W, 3] in [0, 1], sRGB.
      exposure: share of the light that is left, in (0, 1].
      read_noise: standard deviation in grey levels of 0..255 after encoding.
      seed: of the noise.

    Returns:
      float32 [H, W, 3] in [0, 1], sRGB.
    """
    dark = linear_to_srgb(srgb_to_linear(image) * exposure)
    noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return np.clip(dark + read_noise / 255 * noise, 0, 1).astype(np.float32)
