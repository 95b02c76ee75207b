"""What happens in the lens: blur, shake and defocus."""

import numpy as np

from tpgdiff_jax.data.degradations.image_ops import (
    centred_grid,
    convolve,
    gaussian_kernel,
    linear_to_srgb,
    ramp,
    srgb_to_linear,
)


def _sample_readout(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw weak noise that a sensor adds to what the lens has blurred, in a third of the cases.

    Deblurring learned without any amplifies whatever noise a real photo has.
    """
    noisy, sigma, seed = rng.random() < 1 / 3, rng.uniform(0.5, 3.0), int(rng.integers(2**31))
    return {"readout": float(noisy) * min(severity, 1.0) * sigma, "readout_seed": seed}


def _read_out(image: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    """Add white noise of `sigma` grey levels of 0..255 to an image in [0, 1], and clip it."""
    if not sigma:
        return np.clip(image, 0, 1)
    normal = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return np.clip(image + np.float32(sigma / 255) * normal, 0, 1)


def sample_blur(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `blur`: sigma of 0.8 to 3 pixels at severity 1 to 5."""
    # The square makes near-round point spreads as common as drawn-out ones.
    return {
        "sigma": ramp(severity, 0.8, 3.0),
        "stretch": 1 + 0.7 * rng.random() ** 2,
        "angle": rng.uniform(0, 180),
        "linear": int(rng.random() < 0.4),
        **_sample_readout(rng, severity),
    }


def blur(
    image: np.ndarray,
    *,
    sigma: float,
    stretch: float,
    angle: float,
    linear: int = 0,
    readout: float = 0.0,
    readout_seed: int = 0,
) -> np.ndarray:
    """Blur with an anisotropic Gaussian point spread.

    The classical model of blind restoration, e.g. Zhang et al., "Designing a Practical
    Degradation Model for Deep Blind Image Super-Resolution" (ICCV 2021), who blur sRGB values.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      sigma: geometric mean of the two standard deviations, in pixels; 0 for no blur.
      stretch: long standard deviation / sigma, at least 1 (round).
      angle: of the long axis from the horizontal, in degrees.
      linear: 1: blur linear light, as a lens does; 0: sRGB values, as image programs do.
      readout: standard deviation of the noise added afterwards, in grey levels of 0..255.
      readout_seed: of that noise.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    if sigma == 0:
        return image.copy()
    kernel = gaussian_kernel(sigma * stretch, sigma / stretch, angle)
    blurred = _convolve_light(image, kernel) if linear else convolve(image, kernel)
    return _read_out(blurred, readout, readout_seed)


def sample_motion_blur(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `motion_blur`: a path 4 to 24 pixels long at severity 1 to 5."""
    # A third are straight lines, of a pan or of what passes by.
    straight, shake = rng.random() < 1 / 3, rng.random() ** 2
    return {
        "extent": ramp(severity, 4, 24),
        "shake": 0.0 if straight else shake,
        "angle": rng.uniform(0, 360),
        "seed": int(rng.integers(2**31)),
        **_sample_readout(rng, severity),
    }


def shake_kernel(extent: float, shake: float, angle: float, seed: int) -> np.ndarray:
    """Draw the point spread of a camera that moves while the shutter is open.

    A particle on a random walk with inertia, a pull back to the centre and rare jerks (Boracchi &
    Foi, "Modeling the Performance of Image Restoration From Motion Blur", IEEE TIP 2012).

    Args:
      extent: largest distance between two points of the path, in pixels.
      shake: 0 for a straight sweep, 1 for a nervous path.
      angle: of the first movement, in degrees.
      seed: of the walk.

    Returns:
      float32 [K, K], K odd; sums to one, its centre of mass in the middle.
    """
    steps = 96
    rng = np.random.default_rng(seed)
    kicks = rng.standard_normal((steps, 2)) @ (1, 1j)
    jerks = rng.random(steps) < 0.02 * shake
    velocity, position = 1.0 + 0j, 0j
    path = np.empty(steps, complex)
    for step in range(steps):
        velocity += shake * (0.35 * kicks[step] - 0.0075 * position)
        if jerks[step]:
            velocity *= kicks[step]
        velocity /= max(abs(velocity), 1e-9)
        path[step] = position
        position += velocity
    path *= np.exp(1j * np.radians(angle))
    # Its shadows in thirty-six directions give the extent without comparing all pairs of points.
    shadows = np.real(np.exp(1j * np.radians(np.arange(0, 180, 5)))[:, None] * path)
    path *= extent / max(float(np.ptp(shadows, axis=1).max()), 1e-9)
    path = np.interp(np.linspace(0, steps - 1, 4 * steps), np.arange(steps), path)
    path -= path.mean()
    radius = int(np.ceil(np.abs([path.real, path.imag]).max())) + 1
    size = 2 * radius + 1
    left, top = np.floor(path.real).astype(int), np.floor(path.imag).astype(int)
    across, down = path.real - left, path.imag - top
    kernel = np.zeros(size * size)
    for row, column, weight in (
        (0, 0, (1 - down) * (1 - across)),
        (0, 1, (1 - down) * across),
        (1, 0, down * (1 - across)),
        (1, 1, down * across),
    ):
        index = (top + row + radius) * size + left + column + radius
        kernel += np.bincount(index, weights=weight, minlength=size * size)
    return (kernel / kernel.sum()).astype(np.float32).reshape(size, size)


def motion_blur(
    image: np.ndarray,
    *,
    extent: float,
    shake: float,
    angle: float,
    seed: int,
    readout: float = 0.0,
    readout_seed: int = 0,
) -> np.ndarray:
    """Shake the camera during the exposure: average the light along a random path.

    Args:
      image: float32 [H, W, 3] in [0, 1], sRGB.
      extent: largest distance between two points of the path, in pixels.
      shake: 0 for a straight sweep, 1 for a nervous path.
      angle: of the first movement, in degrees.
      seed: of the path.
      readout: standard deviation of the noise added afterwards, in grey levels of 0..255.
      readout_seed: of that noise.

    Returns:
      float32 [H, W, 3] in [0, 1], sRGB.
    """
    blurred = _convolve_light(image, shake_kernel(extent, shake, angle, seed))
    return _read_out(blurred, readout, readout_seed)


def sample_defocus(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `defocus`: a disk of 1.5 to 6 pixels at severity 1 to 5."""
    radius = ramp(severity, 1.5, 6) * rng.uniform(0.85, 1.15)
    return {"radius": radius, **_sample_readout(rng, severity)}


def defocus(
    image: np.ndarray, *, radius: float, readout: float = 0.0, readout_seed: int = 0
) -> np.ndarray:
    """Focus at the wrong distance: a point spreads over a disk, the image of the aperture.

    Geometric optics (Potmesil & Chakravarty, "A Lens and Aperture Camera Model for Synthetic
    Image Generation", SIGGRAPH 1981), in linear light so that highlights become bright disks.

    Args:
      image: float32 [H, W, 3] in [0, 1], sRGB.
      radius: of the circle of confusion in pixels; below half a pixel nothing happens.
      readout: standard deviation of the noise added afterwards, in grey levels of 0..255.
      readout_seed: of that noise.

    Returns:
      float32 [H, W, 3] in [0, 1], sRGB.
    """
    rows, columns = centred_grid(2 * int(np.ceil(radius)) + 1)
    disk = np.clip(np.float32(radius + 0.5) - np.hypot(rows, columns), 0, 1)
    return _read_out(_convolve_light(image, disk / disk.sum()), readout, readout_seed)


def _convolve_light(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.clip(linear_to_srgb(convolve(srgb_to_linear(image), kernel)), 0, 1)
