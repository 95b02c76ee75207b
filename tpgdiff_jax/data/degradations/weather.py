"""What lies between the scene and the camera: haze and rain."""

import numpy as np

from tpgdiff_jax.data.degradations.image_ops import blur, smooth_field


def sample_haze(rng: np.random.Generator) -> dict[str, float]:
    """Draw the parameters of `haze`."""
    return {
        "density": rng.uniform(0.6, 1.6),
        "airlight": rng.uniform(0.75, 1.0),
        "seed": int(rng.integers(2**31)),
    }


def haze(image: np.ndarray, *, density: float, airlight: float, seed: int) -> np.ndarray:
    """Veil the scene: I = J t + A (1 - t) with t = exp(-density d).

    The depth d is synthesised: farther towards the top of the frame, modulated by a smooth random
    field.  Koschmieder's law as in Narasimhan & Nayar, "Vision and the Atmosphere" (IJCV 2002).

    Args:
      image: float32 [H, W, 3] in [0, 1].
      density: scattering coefficient times the largest depth.
      airlight: A, brightness of the veil in [0, 1].
      seed: of the depth field.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, width = image.shape[:2]
    field = smooth_field(np.random.default_rng(seed), height, width, cells=3)
    upward = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    depth = 0.4 + 0.3 * upward + 0.3 * field
    transmission = np.exp(-np.float32(density) * depth)[..., None]
    return np.clip(image * transmission + np.float32(airlight) * (1 - transmission), 0, 1)


def sample_rain(rng: np.random.Generator) -> dict[str, float]:
    """Draw the parameters of `rain`."""
    return {
        "coverage": rng.uniform(0.01, 0.03),
        "length": int(rng.integers(9, 24)),
        "angle": rng.uniform(-25, 25),
        "brightness": rng.uniform(0.5, 0.9),
        "seed": int(rng.integers(2**31)),
    }


def rain(
    image: np.ndarray, *, coverage: float, length: int, angle: float, brightness: float, seed: int
) -> np.ndarray:
    """Add bright streaks: I = J (1 - s) + s, with s the streaks' opacity.

    Streaks are random drops drawn out along the direction of fall (Garg & Nayar, "Vision and
    Rain", IJCV 2007: a falling drop shows as a thin, bright, motion-blurred line).

    Args:
      image: float32 [H, W, 3] in [0, 1].
      coverage: share of pixels where a streak starts.
      length: of a streak in pixels.
      angle: of the fall, degrees from the vertical.
      brightness: opacity of a streak's core, in [0, 1].
      seed: of the drops.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    margin = length + 1
    drops = rng.random((height + 2 * margin, width + 2 * margin), dtype=np.float32)
    strength = rng.random(drops.shape, dtype=np.float32)
    drops = np.where(drops < coverage, 0.4 + 0.6 * strength, 0).astype(np.float32)
    slope = np.tan(np.radians(angle))
    streaks = np.zeros((height, width), np.float32)
    for step in range(length):
        down = margin + step - length // 2
        across = margin + round(slope * (step - length // 2))
        fade = np.float32(np.sin(np.pi * (step + 0.5) / length))
        window = drops[down : down + height, across : across + width]
        streaks = np.maximum(streaks, fade * window)
    opacity = np.float32(brightness) * np.clip(blur(streaks, 0.5) * 1.2, 0, 1)[..., None]
    return image * (1 - opacity) + opacity
