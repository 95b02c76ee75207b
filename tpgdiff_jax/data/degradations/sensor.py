"""What happens on the sensor: underexposure and noise of three kinds."""

import numpy as np

from tpgdiff_jax.data.degradations.grain import WHITE_COLOUR, Grain, photon_noise
from tpgdiff_jax.data.degradations.image_ops import (
    convolve,
    gaussian_kernel,
    geometric_ramp,
    linear_to_srgb,
    luma,
    ramp,
    srgb_to_linear,
)


def sample_noise(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `noise`: sigma of 10 to 50 grey levels at severity 1 to 5."""
    return {"sigma": ramp(severity, 10, 50), "seed": int(rng.integers(2**31))}


def noise(image: np.ndarray, *, sigma: float, seed: int) -> np.ndarray:
    """Add white Gaussian noise.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      sigma: standard deviation in grey levels of 0..255.
      seed: of the noise.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    normal = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + np.float32(sigma / 255) * normal, 0, 1)


def sample_camera_noise(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `camera_noise`: from ISO 800 in good light to a phone at night.

    Read noise follows shot noise as Brooks et al. fitted it to the cameras of the Darmstadt data
    set ("Unprocessing Images for Learned Raw Denoising", CVPR 2019).
    """
    spread, red, blue = rng.uniform(-0.26, 0.26), rng.uniform(1.3, 2.2), rng.uniform(1.3, 2.0)
    shot = geometric_ramp(severity, 0.0003, 0.02, at_zero=1e-6) if severity > 0 else 0.0
    # A fifth is as white as raw files are; the rest has passed a camera's processing.  What cameras
    # of ISO 1600 to 6400 leave in their JPEG files has a grain of 0.5 to 0.8 pixels in brightness
    # and of 1.3 to 2.5 in colour.
    processed = float(rng.random() < 0.8)
    return {
        "shot": shot,
        "read": float(np.sqrt(np.exp(1.2 + spread) * shot**2.18)),
        "red_gain": red,
        "blue_gain": blue,
        "luma_grain": processed * rng.uniform(0.45, 0.9),
        "chroma_grain": processed * float(np.exp(rng.uniform(np.log(1.2), np.log(3.0)))),
        "colour": WHITE_COLOUR + processed * (rng.uniform(0.2, 0.6) - WHITE_COLOUR),
        "tone": processed * rng.random(),
        "seed": int(rng.integers(2**31)),
    }


def camera_noise(
    image: np.ndarray,
    *,
    shot: float,
    read: float,
    red_gain: float,
    blue_gain: float,
    seed: int,
    luma_grain: float = 0.0,
    chroma_grain: float = 0.0,
    colour: float = WHITE_COLOUR,
    tone: float = 0.0,
) -> np.ndarray:
    """Add shot and read noise in linear light, before white balance and sRGB encoding.

    The model of Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019),
    without the mosaic: red and blue are recorded darker than green and amplified afterwards, and
    their noise with them.  What the mosaic and the camera's denoising do is the noise's grain.

    Args:
      image: float32 [H, W, 3] in [0, 1], sRGB.
      shot: variance per unit of linear light, 0 to about 0.05.
      read: standard deviation in the dark, in linear light.
      red_gain, blue_gain: white balance, at least 1.
      seed: of the noise.
      luma_grain, chroma_grain, colour: see `Grain`.
      tone: 0: the sRGB curve only; 1: an S-shaped tone curve as well, which flattens shadows and
        highlights, and the noise in them by 40 per cent.

    Returns:
      float32 [H, W, 3] in [0, 1], sRGB.
    """
    gains = np.array((red_gain, 1, blue_gain), np.float32)
    grain = Grain(luma_grain, chroma_grain, colour)
    raw = photon_noise(srgb_to_linear(image) / gains, shot, read, seed, grain)
    noisy = linear_to_srgb(raw * gains)
    if tone:
        slope = 1 - np.float32(tone) * (np.float32(0.4) - np.float32(1.6) * image * (1 - image))
        noisy = image + slope * (noisy - image)
    return np.clip(noisy, 0, 1)


def sample_colour_noise(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `colour_noise`."""
    return {
        "luma_sigma": ramp(severity, 3, 15) * rng.uniform(0.8, 1.2),
        "chroma_sigma": ramp(severity, 4, 18) * rng.uniform(0.8, 1.2),
        "luma_grain": rng.uniform(0.45, 0.9),
        "chroma_grain": rng.uniform(1.2, 3.0),
        "seed": int(rng.integers(2**31)),
    }


def colour_noise(
    image: np.ndarray,
    *,
    luma_sigma: float,
    chroma_sigma: float,
    luma_grain: float,
    chroma_grain: float,
    seed: int,
) -> np.ndarray:
    """Add blotchy noise, coarser and stronger in colour than in brightness, most in the shadows.

    What demosaicing and in-camera denoising leave of sensor noise is correlated between pixels
    and channels (Nam et al., "A Holistic Approach to Cross-Channel Image Noise Modeling",
    CVPR 2016); here white noise in YCbCr is smoothed with a Gaussian each.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      luma_sigma, chroma_sigma: standard deviations in black, in grey levels of 0..255; in white
        they are 40 per cent of that.
      luma_grain, chroma_grain: sigma of the smoothing in pixels, above 0.
      seed: of the noise.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    # A smoothed sum of uniform numbers is close to normal, and they are drawn four times faster.
    white = np.random.default_rng(seed).random(image.shape, dtype=np.float32) - np.float32(0.5)
    radius = max(1, int(np.ceil(3 * max(luma_grain, chroma_grain))))
    kernels = []
    for sigma, grain in zip(
        (luma_sigma, chroma_sigma, chroma_sigma),
        (luma_grain, chroma_grain, chroma_grain),
        strict=True,
    ):
        kernel = gaussian_kernel(grain, grain)
        kernel *= np.float32(sigma / 255 * 12**0.5) / np.linalg.norm(kernel)
        kernels.append(np.pad(kernel, radius - len(kernel) // 2))
    y, cb, cr = np.moveaxis(convolve(white, np.stack(kernels, -1)), -1, 0)
    rgb = np.stack(
        (
            y + np.float32(1.402) * cr,
            y - np.float32(0.344) * cb - np.float32(0.714) * cr,
            y + np.float32(1.772) * cb,
        ),
        -1,
    )
    shadow = 1 - np.float32(0.6) * luma(image)
    return np.clip(image + shadow[..., None] * rgb, 0, 1)


def sample_low_light(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `low_light`: 17 to 3 per cent of the light at severity 1 to 5.

    At severity 1 white becomes at most 48 per cent grey, but for the noise.  A photo that has
    highlights is dark by intention, and must not be learned as one that lacks light, so mixtures
    draw nothing weaker.
    """
    strength = ramp(severity, 0.4, 1.0)
    grain = float(rng.random() < 0.5)
    return {
        "exposure": geometric_ramp(severity, 0.17, 0.03),
        "contrast": 1 + strength * rng.uniform(-0.08, 0.15),
        "warmth": strength * rng.uniform(-0.2, 0.2),
        "green": strength * rng.uniform(-0.08, 0.08),
        "black": strength * max(0.0, rng.uniform(-0.004, 0.004)),
        "shot": strength * float(np.exp(rng.uniform(np.log(1e-5), np.log(5e-4)))),
        "read": strength * float(np.exp(rng.uniform(np.log(1e-4), np.log(1.5e-3)))),
        "luma_grain": grain * rng.uniform(0.3, 0.9),
        "chroma_grain": grain * rng.uniform(0.5, 2.5),
        "seed": int(rng.integers(2**31)),
    }


def low_light(
    image: np.ndarray,
    *,
    exposure: float,
    contrast: float,
    warmth: float,
    shot: float,
    read: float,
    seed: int,
    green: float = 0.0,
    black: float = 0.0,
    luma_grain: float = 0.0,
    chroma_grain: float = 0.0,
) -> np.ndarray:
    """Expose too briefly: scale and tint the light, count its few photons, render it dark.

    Darkening in linear light with signal-dependent noise as in Lv et al., "Attention Guided
    Low-light Image Enhancement with a Large Scale Low-light Simulation Dataset" (IJCV 2021).

    Args:
      image: float32 [H, W, 3] in [0, 1], sRGB.
      exposure: share of the light that is left, in (0, 1].
      contrast: exponent of the camera's tone curve, about 1; above 1 deepens the shadows.
      warmth: the light's colour, -0.2 (blue) to 0.2 (orange).
      shot: variance per unit of linear light, at the sensor.
      read: standard deviation in the dark, in linear light.
      seed: of the noise.
      green: the light's colour, -0.1 (magenta) to 0.1 (green).
      black: what the camera takes for black, in linear light; 0 to about 0.004.
      luma_grain, chroma_grain: see `Grain`.

    Returns:
      float32 [H, W, 3] in [0, 1], sRGB.
    """
    light = np.float32(exposure) * np.array((1 + warmth, 1 + green, 1 - warmth), np.float32)
    grain = Grain(luma_grain, chroma_grain)
    # Scarce light is darker than any black level: at most a fifth of what white has left is lost.
    lost = np.float32(min(black, 0.2 * exposure))
    dark = photon_noise(srgb_to_linear(image) * light, shot, read, seed, grain) - lost
    return np.clip(linear_to_srgb(dark) ** np.float32(contrast), 0, 1)
