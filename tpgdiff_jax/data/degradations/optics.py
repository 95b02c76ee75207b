"""What happens in the lens: blur, shake, defocus, and drops on the glass."""

import numpy as np

from tpgdiff_jax.data.degradations.image_ops import (
    centred_grid,
    convolve,
    gaussian_kernel,
    linear_to_srgb,
    ramp,
    remap,
    shrink,
    smoothstep,
    srgb_to_linear,
)


def sample_blur(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `blur`: sigma of 1 to 2.5 pixels at severity 1 to 5."""
    # The square makes near-round point spreads as common as drawn-out ones.
    return {
        "sigma": ramp(severity, 1.0, 2.5),
        "stretch": 1 + 0.7 * rng.random() ** 2,
        "angle": rng.uniform(0, 180),
    }


def blur(image: np.ndarray, *, sigma: float, stretch: float, angle: float) -> np.ndarray:
    """Blur with an anisotropic Gaussian point spread.

    The classical model of blind restoration, e.g. Zhang et al., "Designing a Practical
    Degradation Model for Deep Blind Image Super-Resolution" (ICCV 2021); in sRGB values, as there.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      sigma: geometric mean of the two standard deviations, in pixels; 0 for no blur.
      stretch: long standard deviation / sigma, at least 1 (round).
      angle: of the long axis from the horizontal, in degrees.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    if sigma == 0:
        return image.copy()
    return np.clip(convolve(image, gaussian_kernel(sigma * stretch, sigma / stretch, angle)), 0, 1)


def sample_motion_blur(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `motion_blur`: a path 4 to 18 pixels long at severity 1 to 5."""
    return {
        "extent": ramp(severity, 4, 18),
        "shake": rng.random() ** 2,
        "angle": rng.uniform(0, 360),
        "seed": int(rng.integers(2**31)),
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
    image: np.ndarray, *, extent: float, shake: float, angle: float, seed: int
) -> np.ndarray:
    """Shake the camera during the exposure: average the light along a random path.

    Args:
      image: float32 [H, W, 3] in [0, 1], sRGB.
      extent: largest distance between two points of the path, in pixels.
      shake: 0 for a straight sweep, 1 for a nervous path.
      angle: of the first movement, in degrees.
      seed: of the path.

    Returns:
      float32 [H, W, 3] in [0, 1], sRGB.
    """
    return _convolve_light(image, shake_kernel(extent, shake, angle, seed))


def sample_defocus(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `defocus`: a disk of 1.5 to 6 pixels at severity 1 to 5."""
    return {"radius": ramp(severity, 1.5, 6) * rng.uniform(0.85, 1.15)}


def defocus(image: np.ndarray, *, radius: float) -> np.ndarray:
    """Focus at the wrong distance: a point spreads over a disk, the image of the aperture.

    Geometric optics (Potmesil & Chakravarty, "A Lens and Aperture Camera Model for Synthetic
    Image Generation", SIGGRAPH 1981), in linear light so that highlights become bright disks.

    Args:
      image: float32 [H, W, 3] in [0, 1], sRGB.
      radius: of the circle of confusion in pixels; below half a pixel nothing happens.

    Returns:
      float32 [H, W, 3] in [0, 1], sRGB.
    """
    rows, columns = centred_grid(2 * int(np.ceil(radius)) + 1)
    disk = np.clip(np.float32(radius + 0.5) - np.hypot(rows, columns), 0, 1)
    return _convolve_light(image, disk / disk.sum())


def _convolve_light(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.clip(linear_to_srgb(convolve(srgb_to_linear(image), kernel)), 0, 1)


def sample_raindrops(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `raindrops`."""
    return {
        "density": ramp(severity, 10, 55),
        "radius": ramp(severity, 5.5, 8) * rng.uniform(0.85, 1.15),
        "softness": rng.uniform(0.12, 0.45),
        "power": rng.uniform(2.5, 5.0),
        "seed": int(rng.integers(2**31)),
    }


def raindrops(
    image: np.ndarray, *, density: float, radius: float, softness: float, power: float, seed: int
) -> np.ndarray:
    """Put drops on the glass; each is a small lens that shows the scene upside down.

    I = (1 - M) B + R as in Qian et al., "Attentive Generative Adversarial Network for Raindrop
    Removal from a Single Image" (CVPR 2018); a drop refracts a wide field of view (Roser &
    Geiger, "Video-based Raindrop Detection for Improved Image Registration", ICCVW 2009) and is
    itself out of focus.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      density: drops per 256 x 256 pixels.
      radius: of a drop of middle size, in pixels; others have half to twice that.
      softness: width of a drop's edge as a share of its radius, in (0, 1].
      power: how many times smaller the scene appears inside a drop.
      seed: of the drops.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, width = image.shape[:2]
    # Drawn drop by drop, so that a higher density keeps the drops of a lower one.
    count = int(np.ceil(density * height * width / 256**2))
    drops = np.random.default_rng(seed).random((count, 7))
    mask = np.zeros((height, width), np.float32)
    shade = np.zeros((height, width), np.float32)
    source = np.zeros((2, height, width), np.float32)
    for y, x, size, tall, shape, turn, lens in drops:
        y, x = y * height, x * width
        r = radius * (0.5 + 1.5 * size**3)
        reach = int(np.ceil(1.5 * r)) + 1
        box = (
            slice(max(0, int(y) - reach), min(height, int(y) + reach + 1)),
            slice(max(0, int(x) - reach), min(width, int(x) + reach + 1)),
        )
        dy = (np.arange(box[0].start, box[0].stop, dtype=np.float32) - np.float32(y))[:, None]
        dx = (np.arange(box[1].start, box[1].stop, dtype=np.float32) - np.float32(x))[None, :]
        v, u = dy / np.float32(r * (1 + 0.25 * tall)), dx / np.float32(r)
        rho = _drop_outline(u, v, 0.16 * shape, 2 * np.pi * turn)
        edge = np.float32(max(softness, 1.2 / r))
        alpha = smoothstep((1 + edge / 2 - rho) / edge)
        # Towards its rim a drop is steeper and bends the light more.
        bend = np.float32(power * (0.7 + 0.6 * lens)) * (
            np.float32(0.6) + np.float32(0.4) * rho * rho
        )
        # The rim shows the sky at its lower side, for the drop inverts it, and is dark above.
        rim = smoothstep((rho - np.float32(0.45)) / np.float32(0.5)) * np.clip(v, -1, 1)
        front = alpha > mask[box]
        np.copyto(source[0][box], np.float32(y) - dy * bend, where=front)
        np.copyto(source[1][box], np.float32(x) - dx * bend, where=front)
        np.copyto(shade[box], np.float32(0.28) * rim, where=front)
        np.copyto(mask[box], alpha, where=front)
    inside = np.nonzero(mask)
    # A quarter of the resolution is what a small lens out of focus leaves.
    small = shrink(image, 4)
    seen = remap(small, (source[0][inside] - 1.5) / 4, (source[1][inside] - 1.5) / 4)
    seen = np.float32(1.06) * seen + shade[inside][:, None] + np.float32(0.02)
    alpha = mask[inside][:, None]
    out = image.copy()
    out[inside] = np.clip(image[inside] * (1 - alpha) + seen * alpha, 0, 1)
    return out


def _drop_outline(u: np.ndarray, v: np.ndarray, bulge: float, turn: float) -> np.ndarray:
    """Return the distance from a drop's centre, 1 on its outline.

    A drop on glass is no circle: its radius varies with the second and third harmonic of the
    angle, computed from the coordinates (u, v) without any arc tangent.
    """
    square = u * u + v * v + np.float32(1e-6)
    rho = np.sqrt(square)
    second = np.float32(np.cos(turn)) * (u * u - v * v) + np.float32(2 * np.sin(turn)) * u * v
    third = u * (u * u - 3 * v * v) / rho
    wobble = np.float32(bulge) * second + np.float32(0.4 * bulge) * third
    return rho / (1 + wobble / square)
