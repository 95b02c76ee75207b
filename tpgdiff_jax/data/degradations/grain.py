"""Noise as sensors make it: it grows with the light, and hangs together between pixels."""

import dataclasses

import cv2
import numpy as np

# Share of white noise's variance that is colour, not common to red, green and blue.
WHITE_COLOUR = 2 / 3


@dataclasses.dataclass(frozen=True)
class Grain:
    """How noise hangs together between pixels and channels; the default is white noise.

    Attributes:
      luma, chroma: sigma in pixels of the smoothing of the part common to the channels, and of the
        rest; 0 for none.
      colour: share of the variance that is not common to the channels, in [0, 1].
    """

    luma: float = 0.0
    chroma: float = 0.0
    colour: float = WHITE_COLOUR


_WHITE = Grain()


def grainy_noise(shape: tuple[int, int, int], seed: int, grain: Grain = _WHITE) -> np.ndarray:
    """Draw normal noise of variance 1 per channel, correlated as cameras leave it.

    Demosaicking and in-camera denoising smooth brightness a little and colour a lot (Nam et al.,
    "A Holistic Approach to Cross-Channel Image Noise Modeling and its Application to Image
    Denoising", CVPR 2016).

    Args:
      shape: (H, W, 3).
      seed: of the noise.
      grain: correlations.

    Returns:
      float32 [H, W, 3].
    """
    white = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    if grain == _WHITE:
        return white
    common = cv2.transform(white, np.full((1, 3), 1 / 3, np.float32)).reshape(shape[:2])
    colour = white - common[..., None]
    common = _smooth_unit(common, grain.luma) * np.float32((3 * (1 - grain.colour)) ** 0.5)
    colour = _smooth_unit(colour, grain.chroma) * np.float32((1.5 * grain.colour) ** 0.5)
    return colour + common[..., None]


def _smooth_unit(field: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth white noise and keep its variance."""
    if sigma < 0.2:
        return field
    kernel = cv2.getGaussianKernel(2 * int(np.ceil(3 * sigma)) + 1, sigma, cv2.CV_32F)
    smooth = cv2.sepFilter2D(field, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)
    return smooth.reshape(field.shape) / (kernel**2).sum()


def photon_noise(
    light: np.ndarray, shot: float, read: float, seed: int, grain: Grain = _WHITE
) -> np.ndarray:
    """Add the noise of counting photons to linear light.

    Poisson-Gaussian noise in its Gaussian form, of variance shot * light + read^2 (Foi et al.,
    "Practical Poissonian-Gaussian noise modeling", IEEE TIP 2008).

    Args:
      light: float32 [H, W, 3], linear.
      shot: variance per unit of light.
      read: standard deviation in the dark.
      seed: of the noise.
      grain: how it hangs together; white if not given.

    Returns:
      float32 [H, W, 3], linear; noise may carry it below 0 or above 1.
    """
    deviation = np.maximum(light, 0)
    deviation *= np.float32(shot)
    deviation += np.float32(read**2)
    np.sqrt(deviation, out=deviation)
    deviation *= grainy_noise(light.shape, seed, grain)
    deviation += light
    return deviation
