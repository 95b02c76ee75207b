"""Small image operations in numpy that several degradations share."""

import numpy as np


def srgb_to_linear(image: np.ndarray) -> np.ndarray:
    """Decode sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: np.ndarray) -> np.ndarray:
    """Encode linear light in [0, 1] as sRGB, the inverse of `srgb_to_linear`."""
    light = np.clip(light, 0, None)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def gaussian_kernel(sigma: float) -> np.ndarray:
    """Return a normalised 1-D Gaussian, cut at three standard deviations; odd length."""
    radius = max(1, int(np.ceil(3 * sigma)))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (taps / taps.sum()).astype(np.float32)


def convolve_axis(image: np.ndarray, taps: np.ndarray, axis: int) -> np.ndarray:
    """Convolve along one axis with odd-length taps; borders are mirrored."""
    radius = len(taps) // 2
    widths = [(0, 0)] * image.ndim
    widths[axis] = (radius, radius)
    padded = np.pad(image, widths, mode="symmetric")
    size = image.shape[axis]
    out = np.zeros_like(image)
    for offset, tap in enumerate(taps):
        window = [slice(None)] * image.ndim
        window[axis] = slice(offset, offset + size)
        out += tap * padded[tuple(window)]
    return out


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur the first two axes with a Gaussian of `sigma` pixels."""
    taps = gaussian_kernel(sigma)
    return convolve_axis(convolve_axis(image, taps, 0), taps, 1)


def smooth_field(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Draw a smooth random field in [0, 1]: random values on a coarse grid, interpolated.

    Args:
      rng: source of randomness.
      height, width: size of the field in pixels.
      cells: grid cells along each side, at least 1.

    Returns:
      float32 [height, width].
    """
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    rows = np.linspace(0, cells, height, dtype=np.float32)
    columns = np.linspace(0, cells, width, dtype=np.float32)
    return _interpolate(_interpolate(grid, rows).T, columns).T


def _interpolate(grid: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Interpolate the rows of `grid` at fractional positions with smooth (cubic) weights."""
    low = np.minimum(positions.astype(int), len(grid) - 2)
    weight = positions - low
    weight = (weight * weight * (3 - 2 * weight))[:, None]
    return grid[low] * (1 - weight) + grid[low + 1] * weight
