"""What a screen does: moire when it is photographed, diffraction when a camera hides below it."""

import numpy as np

from tpgdiff_jax.data.degradations.grain import photon_noise
from tpgdiff_jax.data.degradations.image_ops import (
    centred_grid,
    convolve,
    linear_to_srgb,
    ramp,
    smooth_field,
    srgb_to_linear,
)

# Wavelengths of red, green and blue light relative to green, which is what diffraction scales by.
_WAVELENGTHS = (610 / 535, 1.0, 460 / 535)


def sample_moire(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `moire`."""
    return {
        "strength": ramp(severity, 0.1, 0.4),
        "period": float(np.exp(rng.uniform(np.log(16), np.log(64)))),
        "angle": rng.uniform(0, 180),
        "curl": rng.uniform(0.15, 0.6),
        "grid": ramp(severity, 0.015, 0.06) * rng.uniform(0.5, 1.0),
        "seed": int(rng.integers(2**31)),
    }


def moire(
    image: np.ndarray,
    *,
    strength: float,
    period: float,
    angle: float,
    curl: float,
    grid: float,
    seed: int,
) -> np.ndarray:
    """Photograph a screen: its grid of pixels and the sensor's interfere.

    Two gratings show the difference of their frequencies as slow bands (Amidror, "The Theory of
    the Moire Phenomenon", 2009).  The stripes of red, green and blue sit a third of a pixel
    apart, so their bands are out of phase: coloured.  The rows give a second, weaker pattern.
    The lens bends the bands, so their period changes over the frame (Yuan et al., "AIM 2019
    Challenge on Image Demoireing", arXiv:1911.02498, render the same by simulation).

    Args:
      image: float32 [H, W, 3] in [0, 1].
      strength: of the coloured bands, share of the light in [0, 1].
      period: of the bands in pixels, in the mean.
      angle: of the bands' normal from the horizontal, in degrees.
      curl: how far the bending moves a band, as a share of the frame.
      grid: strength of the screen's own stripes, in [0, 1].
      seed: of the bending.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    offset, ratio, lag = rng.random(3)
    bend = smooth_field(rng, height, width, 1) + 0.5 * smooth_field(rng, height, width, 2)
    other = smooth_field(rng, height, width, 2)
    presence = 0.2 + 0.8 * smooth_field(rng, height, width, 2)
    rows, columns = np.ogrid[:height, :width]
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    turns = np.radians(angle), np.radians(angle + 55 + 70 * lag)
    frequency = 1 / period, 0.8 / period * (0.6 + 0.8 * ratio)
    curl *= max(height, width)
    columns_phase, rows_phase = (
        np.float32(f * np.cos(turn)) * columns
        + np.float32(f * np.sin(turn)) * rows
        + np.float32(f * curl) * warp
        for turn, f, warp in zip(turns, frequency, (bend, other), strict=True)
    )
    thirds = np.array((-1 / 3, 0, 1 / 3), np.float32)
    tau = np.float32(2 * np.pi)
    colour = np.cos(tau * (columns_phase[..., None] + np.float32(offset) + thirds))
    # Where both patterns are bright the bands are strongest: the grids multiply.
    rows_pattern = np.cos(tau * rows_phase)
    bands = colour * (np.float32(0.75) + np.float32(0.25) * rows_pattern[..., None])
    bands += np.float32(0.3) * rows_pattern[..., None]
    stripes = np.cos(tau * (np.float32(1 / 2.9) * columns[..., None] + thirds))
    light = np.float32(strength) * presence[..., None] * bands + np.float32(grid) * stripes
    # A photographed screen has no true black: the bands show faintly in its glow too.
    return np.clip(image + light * (np.float32(0.06) + np.float32(0.8) * image), 0, 1)


def sample_toled(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `toled`."""
    return {
        "scatter": ramp(severity, 0.75, 1.0),
        "spacing": ramp(severity, 1.2, 3.6) * rng.uniform(0.85, 1.15),
        "transmission": ramp(severity, 0.92, 0.65, at_zero=1.0),
        "shot": ramp(severity, 0.0003, 0.003) * rng.uniform(0.6, 1.4),
        "seed": int(rng.integers(2**31)),
    }


def toled(
    image: np.ndarray,
    *,
    scatter: float,
    spacing: float,
    transmission: float,
    shot: float,
    seed: int,
) -> np.ndarray:
    """Look through a transparent OLED screen, whose columns of pixels leave vertical slits.

    The slits diffract light into a horizontal row of orders, wider in red than in blue (Zhou et
    al., "Image Restoration for Under-Display Camera", CVPR 2021): I = g J * k + n.

    Args:
      image: float32 [H, W, 3] in [0, 1], sRGB.
      scatter: share of the light that the slits diffract, in [0, 1].
      spacing: of the orders in pixels, in green light.
      transmission: g, share of the light that is left after the camera's gain, in (0, 1].
      shot: variance of the noise per unit of linear light.
      seed: of the noise.

    Returns:
      float32 [H, W, 3] in [0, 1], sRGB.
    """
    reach = int(np.ceil(5 * spacing * _WAVELENGTHS[0])) + 2
    orders = np.stack([_orders(reach, spacing * w, 0.25) for w in _WAVELENGTHS], -1)[None]
    kernel = _blend_with_point(orders, scatter)
    colour = np.array((transmission, transmission, transmission**1.15), np.float32)
    return _behind_display(image, kernel, colour, shot, seed)


def sample_poled(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `poled`."""
    return {
        "scatter": ramp(severity, 0.75, 1.0),
        "spacing": ramp(severity, 0.8, 2.6) * rng.uniform(0.85, 1.15),
        "transmission": ramp(severity, 0.5, 0.15, at_zero=1.0),
        "yellow": ramp(severity, 0.35, 1.0) * rng.uniform(0.8, 1.2),
        "shot": ramp(severity, 0.0002, 0.0014) * rng.uniform(0.6, 1.4),
        "seed": int(rng.integers(2**31)),
    }


def poled(
    image: np.ndarray,
    *,
    scatter: float,
    spacing: float,
    transmission: float,
    yellow: float,
    shot: float,
    seed: int,
) -> np.ndarray:
    """Look through an OLED screen on polyimide: dark, yellow, hazy and blurred.

    The plastic absorbs most of the light, blue above all; the small openings of a pentile grid
    diffract in both directions, with a wide halo (Zhou et al., "Image Restoration for
    Under-Display Camera", CVPR 2021): I = g J * k + n.

    Args:
      image: float32 [H, W, 3] in [0, 1], sRGB.
      scatter: share of the light that the openings diffract, in [0, 1].
      spacing: of the orders in pixels, in green light.
      transmission: g of green light after the camera's gain, in (0, 1].
      yellow: how much less blue passes than green; at 1 it is 42 per cent.
      shot: variance of the noise per unit of linear light.
      seed: of the noise.

    Returns:
      float32 [H, W, 3] in [0, 1], sRGB.
    """
    reach = int(np.ceil(4 * spacing * _WAVELENGTHS[0])) + 4
    rows, columns = centred_grid(2 * reach + 1)
    halo = (1 + (rows**2 + columns**2) / np.float32((1 + spacing) ** 2)) ** np.float32(-1.5)
    halo /= halo.sum()
    kernels = []
    for wavelength in _WAVELENGTHS:
        orders = _orders(reach, spacing * wavelength, 0.3)
        kernels.append(np.float32(0.75) * np.outer(orders, orders) + np.float32(0.25) * halo)
    kernel = _blend_with_point(np.stack(kernels, -1), scatter)
    colour = transmission * np.array((1.12**yellow, 1, 0.42**yellow), np.float32)
    colour = np.minimum(colour, 1)
    return _behind_display(image, kernel, colour, shot, seed)


def _orders(reach: int, spacing: float, duty: float) -> np.ndarray:
    """Return the diffraction orders of a row of slits, float32 [2 reach + 1], summing to one.

    Fraunhofer's formula: order m has the weight sinc^2(m duty), with duty the width of a slit
    over the period of the slits.
    """
    offsets = np.arange(-reach, reach + 1, dtype=np.float32)[:, None]
    orders = np.arange(-4, 5, dtype=np.float32)[None, :]
    weights = np.sinc(orders * np.float32(duty)) ** 2
    # No order is sharper than the lens draws a point, and a channel is a band of wavelengths,
    # which smears an order the more the farther out it is.
    width = np.hypot(np.float32(0.6), np.float32(0.09 * spacing) * orders)
    spots = np.exp(-0.5 * ((offsets - np.float32(spacing) * orders) / width) ** 2) / width
    taps = (spots * weights).sum(1)
    return taps / taps.sum()


def _blend_with_point(kernel: np.ndarray, share: float) -> np.ndarray:
    kernel = np.float32(share) * kernel
    kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] += np.float32(1 - share)
    return kernel


def _behind_display(
    image: np.ndarray, kernel: np.ndarray, colour: np.ndarray, shot: float, seed: int
) -> np.ndarray:
    light = convolve(srgb_to_linear(image), kernel)
    light *= colour
    return np.clip(linear_to_srgb(photon_noise(light, shot, 0.3 * shot**0.5, seed)), 0, 1)
