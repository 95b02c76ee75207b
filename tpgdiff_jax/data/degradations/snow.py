"""What falls between the scene and the camera: snow."""

import dataclasses

import numpy as np

from tpgdiff_jax.data.degradations.image_ops import enlarge, ramp, smoothstep, splat


@dataclasses.dataclass(frozen=True)
class _SnowLayer:
    """Flakes at one distance: share of all, radius relative to size, opacity, and how drawn.

    A flake is a clump of `blobs`; `shrink` is how many times smaller the canvas is, for flakes so
    near and so far out of focus that nothing of them is fine.
    """

    share: float
    radius: float
    opacity: float
    blobs: int = 1
    shrink: int = 1


_SNOW_LAYERS = (
    _SnowLayer(share=0.74, radius=0.5, opacity=0.7),
    _SnowLayer(share=0.19, radius=0.95, opacity=0.9),
    _SnowLayer(share=0.06, radius=1.8, opacity=0.8, blobs=2),
    _SnowLayer(share=0.01, radius=4.5, opacity=0.5, blobs=3, shrink=3),
)


def sample_snow(rng: np.random.Generator, severity: float) -> dict[str, float]:
    """Draw the parameters of `snow`: 4 to 20 flakes per 1000 pixels at severity 1 to 5.

    Fine powder to large flakes, still or drawn out to streaks, as in Snow100K's three subsets.
    """
    return {
        "density": ramp(severity, 4, 20),
        "size": float(np.exp(rng.uniform(np.log(0.8), np.log(2.4)))),
        "motion": float(np.exp(rng.uniform(np.log(0.15), np.log(3.0)))),
        "angle": rng.uniform(-60, 60),
        "veil": ramp(severity, 0.04, 0.22) * rng.uniform(0.0, 1.2),
        "seed": int(rng.integers(2**31)),
    }


def snow(
    image: np.ndarray,
    *,
    density: float,
    size: float,
    motion: float,
    angle: float,
    veil: float,
    seed: int,
) -> np.ndarray:
    """Let snow fall: flakes at four distances, drawn out by their motion, and a pale veil.

    I = (J (1 - z) + z) (1 - v) + A v with z the flakes' opacity (Liu et al., "DesnowNet:
    Context-Aware Deep Network for Snow Removal", IEEE TIP 2018).

    Args:
      image: float32 [H, W, 3] in [0, 1].
      density: flakes per 1000 pixels.
      size: radius of a flake at middle distance, in pixels.
      motion: way that a flake moves during the exposure, in its radii.
      angle: of the fall, degrees from the vertical.
      veil: v, opacity of the air at the top of the frame, in [0, 1].
      seed: of the flakes.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, width = image.shape[:2]
    layer_rngs = np.random.default_rng(seed).spawn(len(_SNOW_LAYERS))
    clear = np.ones((height, width), np.float32)
    for rng, layer in zip(layer_rngs, _SNOW_LAYERS, strict=True):
        factor = layer.shrink
        flakes = _flakes(
            rng,
            height=-(-height // factor),
            width=-(-width // factor),
            density=density / 1000 * layer.share * factor**2,
            radius=size * layer.radius / factor,
            motion=motion,
            angle=angle,
            layer=layer,
        )
        clear *= 1 - (flakes if factor == 1 else enlarge(flakes, height, width, factor))
    clear = clear[..., None]
    air = np.float32(veil) * np.linspace(1, 0.5, height, dtype=np.float32)[:, None, None]
    return np.clip((image * clear + (1 - clear)) * (1 - air) + np.float32(0.88) * air, 0, 1)


def _flakes(
    rng: np.random.Generator,
    *,
    height: int,
    width: int,
    density: float,
    radius: float,
    motion: float,
    angle: float,
    layer: _SnowLayer,
) -> np.ndarray:
    """Return the opacity [height, width] of one layer of flakes; lengths in canvas pixels."""
    reach = int(np.ceil(radius * (1.15 + motion / 2) * 1.6 + 1))
    tall, wide = height + 2 * reach, width + 2 * reach
    count = int(np.ceil(density * tall * wide))
    # Drawn flake by flake, so that denser snow keeps the flakes of lighter snow.
    flakes = rng.random((count, 5 + 2 * layer.blobs), dtype=np.float32)
    row, column, size, strength, turn = (np.repeat(flakes[:, i], layer.blobs) for i in range(5))
    r = np.float32(radius) * (np.float32(0.45) + np.float32(1.15) * size * size)
    offsets = (flakes[:, 5:].reshape(-1, 2) - np.float32(0.5)) * r[:, None]
    y, x = row * tall - reach, column * wide - reach
    if layer.blobs > 1:
        y, x, r = y + offsets[:, 0], x + offsets[:, 1], r * np.float32(0.75)
    tilt = np.radians(np.float32(angle) + 30 * (turn - np.float32(0.5)))
    top, left = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    window = np.arange(-reach, reach + 1)
    dy = (window - (y - top)[:, None]).astype(np.float32)[:, :, None]
    dx = (window - (x - left)[:, None]).astype(np.float32)[:, None, :]
    r, sin, cos = r[:, None, None], np.sin(tilt)[:, None, None], np.cos(tilt)[:, None, None]
    # A blob is a disk swept along a segment, with a soft edge.
    beyond = np.abs(dy * cos + dx * sin)
    beyond -= r * np.float32(motion / 2)
    np.maximum(beyond, 0, out=beyond)
    distance = dx * cos - dy * sin
    distance *= distance
    distance += beyond * beyond
    np.sqrt(distance, out=distance)
    edge = np.maximum(r * np.float32(0.9), 1)
    # Flakes below the size of a pixel keep their light by growing fainter instead of smaller.
    faint = np.minimum(r / np.float32(0.7), 1)
    opacity = np.float32(layer.opacity) * (np.float32(0.3) + np.float32(0.7) * strength)
    alpha = smoothstep((r / edge + np.float32(0.5)) - distance / edge)
    alpha *= opacity[:, None, None] * faint
    rows = np.broadcast_to((top[:, None] + window)[:, :, None], alpha.shape)
    columns = np.broadcast_to((left[:, None] + window)[:, None, :], alpha.shape)
    # Light passes one flake after the other: a product, as a sum of logarithms.
    return 1 - np.exp(-splat(rows, columns, -np.log1p(-alpha), height, width))
