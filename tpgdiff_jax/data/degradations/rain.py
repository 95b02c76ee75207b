"""What falls between the scene and the camera: rain."""

import dataclasses
import itertools

import cv2
import numpy as np
import scipy.ndimage

from tpgdiff_jax.data.degradations.image_ops import geometric_ramp, ramp, splat

_LONGEST = 8192  # pixels: longer frames get streaks in parts, for a square round them is too large


@dataclasses.dataclass(frozen=True)
class _RainLayer:
    """Drops at one distance: share of all, and length, width and opacity relative to them."""

    share: float
    length: float
    width: float
    opacity: float


_DROP_LAYERS = (
    _RainLayer(share=0.66, length=0.6, width=0.45, opacity=0.55),
    _RainLayer(share=0.27, length=1.1, width=0.6, opacity=0.9),
    _RainLayer(share=0.07, length=2.2, width=1.4, opacity=0.75),
)


def sample_rain(rng: np.random.Generator, severity: float) -> dict[str, float | str]:
    """Draw the parameters of `rain`: from a few streaks to sheets that hide most of the frame.

    The public sets differ widely: Rain100L has one direction and few streaks, Rain100H up to five
    directions and streaks over nearly every pixel, both added to the photo's values and clipped.
    """
    style = "drops" if rng.random() < 0.2 else "streaks"
    steep = 22 if rng.random() < 0.75 else 70
    additive, weight = rng.random(), rng.random()
    # Added light is what the public sets have; a drop in front of the scene also hides it.
    additive = 1.0 if weight < 0.6 else 0.0 if weight < 0.8 else additive
    layers = 1 + int(rng.choice(5, p=(0.25, 0.25, 0.2, 0.15, 0.15)))
    thickness = geometric_ramp(max(severity, 1), 0.08, 0.9) * rng.uniform(0.6, 1.4)
    length = float(np.exp(rng.uniform(np.log(16), np.log(110))))
    width = float(np.exp(rng.uniform(np.log(0.4), np.log(0.95))))
    return {
        "style": style,
        "coverage": min(severity, 1.0) * thickness,
        "length": length,
        # Short streaks are thin, for a short, wide one is a flake of snow; thinner ones show beads.
        "width": max(0.4, min(width, length / 40)),
        "angle": rng.uniform(-steep, steep),
        "layers": layers,
        "spread": rng.uniform(3, 22),
        "brightness": rng.uniform(0.3, 0.9),
        "hardness": 1 + 2 * rng.random() ** 2,
        "additive": additive,
        "veil": ramp(severity, 0.04, 0.2) * max(0.0, rng.uniform(-0.8, 1.2)),
        "seed": int(rng.integers(2**31)),
    }


def rain(
    image: np.ndarray,
    *,
    style: str,
    coverage: float,
    length: float,
    width: float,
    angle: float,
    layers: int,
    spread: float,
    brightness: float,
    hardness: float,
    additive: float,
    veil: float,
    seed: int,
) -> np.ndarray:
    """Add streaks in one or several directions, and the mist that the farthest drops make.

    A falling drop shows as a thin, bright, motion-blurred line (Garg & Nayar, "Vision and Rain",
    IJCV 2007); streaks of several directions accumulate (Yang et al., "Deep Joint Rain Detection
    and Removal from a Single Image", CVPR 2017, whose Rain100 adds them to the photo); far ones
    merge into a veil (Li et al., "Heavy Rain Image Restoration", CVPR 2019):
    I = (J (1 - (1 - a) B s) + B s) (1 - v) + A v, with s the streaks' strength in all layers
    together, a the additive share, B their brightness and v the veil.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      style: "drops": drawn one by one at three distances, in one direction; "streaks": noise
        points smeared along each direction.
      coverage: mean strength of the streaks, all layers together: 0.03 light, 0.5 a downpour.
      length: of a streak, in pixels.
      width: standard deviation across a streak, in pixels.
      angle: of the fall, degrees from the vertical.
      layers: number of directions of "streaks".
      spread: largest departure of a direction from `angle`, in degrees.
      brightness: B, light that a streak of strength 1 adds, or its opacity, in [0, 1].
      hardness: contrast of "streaks", 1 (soft) to 3 (flat bars with sharp edges).
      additive: a, 1: light is added and clipped; 0: streaks hide what is behind them.
      veil: v, opacity of the mist at the top of the frame, in [0, 1].
      seed: of the drops.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, wide = image.shape[:2]
    rng = np.random.default_rng(seed)
    if style == "drops":
        strength = _drops(rng, height, wide, coverage, length, angle, width)
    else:
        shares = rng.uniform(0.4, 1, layers)
        strength = np.zeros((height, wide), np.float32)
        # Each layer has its own generator, so that density never shifts the next one's draws.
        for layer, share in zip(rng.spawn(layers), shares / shares.sum(), strict=True):
            strength += _streaks(
                layer,
                height,
                wide,
                coverage=coverage * share,
                length=length * layer.uniform(0.6, 1.4),
                width=width * layer.uniform(0.75, 1.3),
                angle=angle + layer.uniform(-spread, spread),
                hardness=hardness,
            )
    strength = strength[..., None]
    mist = np.float32(veil) * np.linspace(1, 0.6, height, dtype=np.float32)[:, None, None]
    # What hides the scene cannot be more than opaque; what adds light may add up.
    hidden = np.float32(brightness * (1 - additive)) * np.minimum(strength, 1)
    light = np.float32(brightness * additive) * strength + np.float32(0.95) * hidden
    rainy = np.clip(image * (1 - hidden) + light, 0, 1)
    return np.clip(rainy * (1 - mist) + np.float32(0.8) * mist, 0, 1)


def _streaks(
    rng: np.random.Generator,
    height: int,
    width_px: int,
    *,
    coverage: float,
    length: float,
    width: float,
    angle: float,
    hardness: float,
) -> np.ndarray:
    """Return the strength [height, width_px] of one layer: points smeared upright, then turned."""
    # Whatever the angle, the frame lies inside, and half a streak's reach around it.
    side = int(np.ceil(np.hypot(height, width_px) + 1.2 * length)) + 8
    # A streak's mean strength is 0.65; hard ones gain by their contrast.
    area = 0.65 * hardness**0.5 * length * width * (2 * np.pi) ** 0.5
    count = round(coverage * side * side / area)
    # Drawn drop by drop, so that denser rain keeps the streaks of lighter rain.
    drops = rng.random((count, 3), dtype=np.float32)
    places = (drops[:, :2] * side).astype(np.intp)
    light = np.float32(0.3) + np.float32(0.7) * drops[:, 2]
    # Two boxes one after the other: flat in the middle, fading at both ends.
    long, short = max(1, round(0.75 * length)), max(1, round(0.4 * length))
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, 1.0)
    turn[:, 2] -= (side - width_px) / 2, (side - height) / 2
    field = np.empty((height, width_px), np.float32)
    for top, left in itertools.product(*(range(0, extent, _LONGEST) for extent in field.shape)):
        part = field[top : top + _LONGEST, left : left + _LONGEST]
        (y, tall), (x, wide) = (0, side), (0, side)
        if part.shape != field.shape:
            (y, tall), (x, wide) = _needed(turn, top, left, part.shape, long + short, side)
        points = splat(places[:, 0] - y, places[:, 1] - x, light, tall, wide)
        smeared = cv2.blur(points, (1, long), borderType=cv2.BORDER_CONSTANT)
        smeared = cv2.blur(smeared, (1, short), borderType=cv2.BORDER_CONSTANT)
        smeared = cv2.GaussianBlur(smeared, (0, 1), sigmaX=width, sigmaY=1e-3)
        own = turn.copy()
        own[:, 2] += turn[:, :2] @ (x, y) - (left, top)
        part[:] = cv2.warpAffine(smeared, own, part.shape[::-1], flags=cv2.INTER_LINEAR)
    # Both blurs spread a point's strength; this restores that of a streak's core.
    field *= np.float32(hardness * max(long, short) * max(width, 0.4) * (2 * np.pi) ** 0.5)
    return np.minimum(field, 1)


def _needed(
    turn: np.ndarray, top: int, left: int, size: tuple[int, int], reach: int, side: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where the upright streaks of a part of the frame lie: (start, length) of both axes.

    Args:
      turn: from upright into the frame, [2, 3].
      top, left, size: of the part, pixels.
      reach: of a streak, pixels.
      side: of the square that holds the whole frame, whatever its angle.
    """
    bottom, right = top + size[0], left + size[1]
    corners = np.array([(x, y, 1) for x in (left, right) for y in (top, bottom)])
    places = corners @ cv2.invertAffineTransform(turn).T  # (x, y) of each
    first = np.maximum(np.floor(places.min(axis=0)).astype(int) - reach - 8, 0)
    last = np.minimum(np.ceil(places.max(axis=0)).astype(int) + reach + 8, side)
    (x, y), (wide, tall) = first.tolist(), (last - first).tolist()
    return (y, tall), (x, wide)


def _drops(
    rng: np.random.Generator,
    height: int,
    width_px: int,
    coverage: float,
    length: float,
    angle: float,
    width: float,
) -> np.ndarray:
    """Return the strength [height, width_px] of drops at three distances, in one direction."""
    # Beyond these lengths and angles a drop drawn row by row costs too much, and shows gaps.
    length, angle = min(length, 24.0), float(np.clip(angle, -45, 45))
    clear = np.ones((height, width_px), np.float32)
    # More than half of the frame takes long to draw drop by drop, and looks like streaks.
    per_pixel = 0.5 * (1 - np.exp(-coverage / 0.5)) / (0.55 * length)
    for layer_rng, layer in zip(rng.spawn(len(_DROP_LAYERS)), _DROP_LAYERS, strict=True):
        clear *= 1 - _drop_layer(
            layer_rng, height, width_px, per_pixel, length, angle, width / 0.6, layer
        )
    return 1 - clear


def _drop_layer(
    rng: np.random.Generator,
    height: int,
    width_px: int,
    per_pixel: float,
    length: float,
    angle: float,
    scale: float,
    layer: _RainLayer,
) -> np.ndarray:
    """Return the opacity [height, width_px] of one layer of drops of full brightness."""
    longest = max(2, round(length * layer.length * 1.3))
    slope = np.tan(np.radians(angle))
    lean = int(abs(slope) * longest) + 4
    tall, wide = height + longest, width_px + 2 * lean
    count = round(per_pixel * layer.share * tall * wide)
    # Drawn drop by drop, so that denser rain keeps the streaks of lighter rain.
    drops = rng.random((count, 5), dtype=np.float32)
    lengths = longest * (np.float32(0.55) + np.float32(0.45) * drops[:, 2:3])
    slopes = np.float32(slope) + np.float32(0.06) * (drops[:, 3:4] - np.float32(0.5))
    steps = np.arange(longest, dtype=np.float32)[None, :]
    rows = (drops[:, :1] * tall).astype(np.intp) - longest + np.arange(longest)
    columns = drops[:, 1:2] * wide - lean + slopes * steps
    # Bright in the middle, gone at both ends: the exposure opens and closes on a moving drop.
    profile = np.sin(np.float32(np.pi) * np.minimum((steps + np.float32(0.5)) / lengths, 1))
    values = profile * (np.float32(0.35) + np.float32(0.65) * drops[:, 4:5])
    left = np.floor(columns)
    across = columns - left
    left = left.astype(np.intp)
    streaks = splat(rows, left, values * (1 - across), height, width_px)
    streaks += splat(rows, left + 1, values * across, height, width_px)
    sigma = layer.width * scale
    streaks = scipy.ndimage.gaussian_filter1d(streaks, sigma, axis=1, truncate=3)
    # The blur spreads a line's opacity over its width; this restores that of its core.
    core = np.float32(layer.opacity * sigma * (2 * np.pi) ** 0.5 * 1.25)
    return 1 - np.exp(-core * streaks)
