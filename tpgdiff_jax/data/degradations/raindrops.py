"""Drops on the glass before the lens."""

import numpy as np

from tpgdiff_jax.data.degradations.image_ops import ramp, remap, shrink, smoothstep


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
