"""What scatters light between the scene and the camera: drifting smoke and clouds."""

import numpy as np

from tpgdiff_jax.data.degradations.haze import guess_depth
from tpgdiff_jax.data.degradations.image_ops import fractal_field, ramp, smoothstep


def sample_haze_patchy(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `haze_patchy`: density of 0.8 to 2.6 at severity 1 to 5."""
    return {
        "density": ramp(severity, 0.8, 2.6),
        "airlight": rng.uniform(0.72, 0.92),
        "coolness": rng.uniform(-0.01, 0.04),
        "slope": rng.uniform(1.6, 2.2),
        "seed": int(rng.integers(2**31)),
    }


def haze_patchy(
    image: np.ndarray, *, density: float, airlight: float, coolness: float, slope: float, seed: int
) -> np.ndarray:
    """Veil the scene unevenly, as drifting smoke does: Koschmieder's law with a fractal density.

    The look of NH-HAZE (Ancuti et al., "NH-HAZE: An Image Dehazing Benchmark with
    Non-Homogeneous Hazy and Haze-Free Images", CVPRW 2020), where a machine makes the haze.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      density: optical thickness where the smoke is thickest and farthest.
      airlight: brightness of the smoke in [0, 1].
      coolness: by how much the smoke is bluer than grey, in [0, 0.1].
      slope: of the smoke's spectrum, 1 (ragged) to 2.5 (smooth).
      seed: of the smoke and of the synthetic depth.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    clumps = smoothstep(0.45 + 0.3 * fractal_field(rng, height, width, slope))
    thickness = (np.float32(0.08) + np.float32(0.92) * clumps) * (
        np.float32(0.45) + np.float32(0.55) * guess_depth(image, seed)
    )
    transmission = np.exp(-np.float32(density) * thickness)[..., None]
    smoke = np.array((airlight - coolness, airlight, airlight + coolness), np.float32)
    return np.clip(image * transmission + smoke * (1 - transmission), 0, 1)


def sample_cloud_thin(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `cloud_thin`: opacity of 0.3 to 0.85 at severity 1 to 5."""
    return {
        "opacity": ramp(severity, 0.3, 0.85),
        "stretch": rng.uniform(1.2, 3.5),
        "angle": rng.uniform(0, 180),
        "slope": rng.uniform(1.5, 2.0),
        "seed": int(rng.integers(2**31)),
    }


def cloud_thin(
    image: np.ndarray, *, opacity: float, stretch: float, angle: float, slope: float, seed: int
) -> np.ndarray:
    """Draw a translucent cloud over a view from above: I = J (1 - a) + C a.

    The additive model of thin cloud (Mitchell et al., "Filtering to Remove Cloud Cover in
    Satellite Imagery", IEEE Trans. Geoscience Electronics 1977), with a fractal opacity.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      opacity: a where the cloud is thickest, in [0, 1].
      stretch: how much longer the wisps are than wide, at least 1.
      angle: of the wisps from the horizontal, in degrees.
      slope: of the cloud's spectrum, 1 (ragged) to 2.5 (smooth).
      seed: of the cloud.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    field = fractal_field(rng, height, width, slope, stretch=stretch, angle=angle)
    alpha = np.float32(opacity) * smoothstep((field + np.float32(1.1)) / np.float32(3.2))
    return image * (1 - alpha[..., None]) + np.float32(0.94) * alpha[..., None]


def sample_cloud_thick(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `cloud_thick`: about 15 to 35 per cent covered at severity 1 to 5."""
    heading = rng.uniform(0, 2 * np.pi)
    return {
        "opacity": ramp(severity, 0.75, 0.97),
        "threshold": ramp(severity, 1.1, 0.4, at_zero=1.4),
        "shadow": ramp(severity, 0.2, 0.4),
        "shadow_x": float(np.cos(heading)),
        "shadow_y": float(np.sin(heading)),
        "slope": rng.uniform(1.6, 2.0),
        "seed": int(rng.integers(2**31)),
    }


def cloud_thick(
    image: np.ndarray,
    *,
    opacity: float,
    threshold: float,
    shadow: float,
    shadow_x: float,
    shadow_y: float,
    slope: float,
    seed: int,
) -> np.ndarray:
    """Draw clouds over a view from above, and their shadows on the ground.

    Opacity is a thresholded fractal (Enomoto et al., "Filmy Cloud Removal on Satellite Imagery
    with Multispectral Conditional Generative Adversarial Nets", CVPRW 2017, use Perlin noise).

    Args:
      image: float32 [H, W, 3] in [0, 1].
      opacity: of the middle of a cloud, in [0, 1].
      threshold: of the field, in standard deviations; 0 covers half of the frame, 1.3 a tenth.
      shadow: share of light that a cloud takes from the ground, in [0, 1].
      shadow_x, shadow_y: where the shadow falls, a vector of length 1 (7 per cent of the frame's
        longer side, at most its shorter one).
      slope: of the clouds' spectrum, 1 (ragged) to 2.5 (smooth).
      seed: of the clouds.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, width = image.shape[:2]
    # Added on all sides: of a long strip 7 per cent of its length would make a huge field.
    margin = min(round(0.07 * max(height, width)), height, width)
    tall, wide = height + 2 * margin, width + 2 * margin
    field = fractal_field(np.random.default_rng(seed), tall, wide, slope)

    def frame(values: np.ndarray, distance: float) -> np.ndarray:
        """Cut out the frame after moving the values so far along the shadow."""
        top, left = margin - round(distance * shadow_y), margin - round(distance * shadow_x)
        return values[top : top + height, left : left + width, None]

    body = smoothstep((field - np.float32(threshold - 0.3)) / np.float32(1.1))
    # The light comes from where the shadow does not fall: slopes that face it are brighter.
    relief = np.clip(frame(field, 0) - frame(field, 0.4 * margin), -0.8, 0.8)
    white = np.float32(0.92) + np.float32(0.06) * relief
    ground = image * (1 - np.float32(shadow) * frame(body, margin))
    alpha = np.float32(opacity) * frame(body, 0)
    return ground * (1 - alpha) + white * alpha
