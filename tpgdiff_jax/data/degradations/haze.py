"""Even haze, and the depth of a scene that it needs, made up from the photo or from nothing."""

import cv2
import numpy as np

from tpgdiff_jax.data.degradations.image_ops import (
    enlarge,
    luma,
    ramp,
    shrink,
    smooth_field,
)

# How the depth of a scene is made up; see `scene_depth`.
SCENES = ("open", "room", "objects", "smooth", "flat")


def sample_haze(rng: np.random.Generator, severity: float) -> dict[str, float | str]:
    """Draw the parameters of `haze`: density of about 0.4 to 2.5 at severity 1 to 5.

    The synthetic sets have a density of 0.6 to 1.8 and an airlight of 0.7 to 1 (Li et al.,
    "Benchmarking Single Image Dehazing and Beyond", IEEE TIP 2019).  The square makes a white veil
    the most common one: that of its indoor test pictures is always white.
    """
    return {
        "density": ramp(severity, 0.6, 1.9) * rng.uniform(0.7, 1.3),
        "airlight": 1 - 0.3 * rng.random() ** 2,
        "warmth": rng.normal() * 0.012,
        "scene": str(rng.choice(SCENES, p=(0.3, 0.35, 0.15, 0.1, 0.1))),
        "seed": int(rng.integers(2**31)),
    }


def haze(
    image: np.ndarray,
    *,
    density: float,
    airlight: float,
    seed: int,
    warmth: float = 0.0,
    scene: str = "open",
    depth: np.ndarray | None = None,
) -> np.ndarray:
    """Veil the scene evenly: I = J t + A (1 - t) with t = exp(-density d).

    Koschmieder's law as in Narasimhan & Nayar, "Vision and the Atmosphere" (IJCV 2002).

    Args:
      image: float32 [H, W, 3] in [0, 1].
      density: scattering coefficient times the largest depth.
      airlight: A, brightness of the veil in [0, 1].
      seed: of the synthetic depth.
      warmth: by how much the veil is redder than grey, about -0.05 (blue) to 0.05.
      scene: one of `SCENES`, which tells how depth is made up.
      depth: d, float32 [H, W] in [0, 1]; synthesised where None.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    if depth is None:
        depth = scene_depth(image, scene, seed)
    transmission = np.exp(-np.float32(density) * depth)[..., None]
    veil = np.array((airlight + warmth, airlight, airlight - warmth), np.float32)
    return np.clip(image * transmission + np.clip(veil, 0, 1) * (1 - transmission), 0, 1)


def scene_depth(image: np.ndarray, scene: str, seed: int) -> np.ndarray:
    """Make up a depth.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      scene: "open": `guess_depth`; "room": walls, floor and ceiling with furniture before them;
        "objects": pieces of even colour, each at its own distance; "smooth": a soft field;
        "flat": all at nearly one distance.
      seed: of what is random.

    Returns:
      float32 [H, W] in [0.1, 1].
    """
    if scene == "open":
        return guess_depth(image, seed)
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    if scene == "room":
        depth = _room_depth(rng, height, width)
        depth += np.float32(rng.uniform(0, 0.4)) * (_pieces_depth(rng, image) - np.float32(0.5))
    elif scene == "objects":
        share = np.float32(rng.uniform(0.2, 0.6))
        far = np.linspace(1, 0, height, dtype=np.float32)[:, None]
        ground = np.float32(0.5) * (far + smooth_field(rng, height, width, 2))
        depth = (1 - share) * ground + share * _pieces_depth(rng, image) + np.float32(0.15)
    elif scene == "smooth":
        cells = int(rng.integers(1, 5))
        depth = smooth_field(rng, height, width, cells)
    else:
        depth = np.float32(rng.uniform(0.4, 1)) + np.float32(0.1) * smooth_field(
            rng, height, width, 2
        )
    return np.clip(depth, np.float32(0.1), 1)


def _room_depth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Look down a box-shaped room: depth is the nearest wall's, in perspective.

    A ray that leaves the vanishing point by (x, y) meets the side walls at a / |x| and the floor or
    ceiling at b / |y|, unless the back wall comes first.

    Returns:
      float32 [height, width], at most 1.
    """
    size = max(height, width)
    turn = np.radians(rng.normal() * 4)
    rows = np.arange(height, dtype=np.float32)[:, None] / size - np.float32(rng.uniform(0, 1))
    columns = np.arange(width, dtype=np.float32)[None, :] / size - np.float32(
        rng.uniform(-0.2, 1.2)
    )
    x = np.float32(np.cos(turn)) * columns + np.float32(np.sin(turn)) * rows
    y = np.float32(np.cos(turn)) * rows - np.float32(np.sin(turn)) * columns
    # (left, right, ceiling, floor): distances of the walls from the line of sight.
    left, right, above, below = (np.float32(rng.uniform(0.12, 0.9)) for _ in range(4))
    across = np.maximum(x / right, -x / left)
    upright = np.maximum(y / below, -y / above)
    nearness = np.maximum(np.maximum(across, upright), np.float32(rng.uniform(0.6, 1.4)))
    depth = 1 / nearness
    return depth / depth.max()


def _pieces_depth(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Give each piece of even colour a distance of its own, so that depth jumps at its edges.

    Returns:
      float32 [H, W] in [0, 1].
    """
    weights = rng.dirichlet((1, 1, 1)).astype(np.float32)
    grey = np.round(image @ weights * 255).astype(np.uint8)
    # Without texture pieces hang together; a median keeps their edges.
    grey = cv2.medianBlur(grey, 9)
    levels = int(rng.integers(2, 6))
    table = rng.random(levels)[np.arange(256) * levels // 256].astype(np.float32)
    # Soft by a pixel, as a depth sensor's edges are.
    return cv2.blur(table[grey], (3, 3))


def guess_depth(image: np.ndarray, seed: int) -> np.ndarray:
    """Make up a depth that suits a photograph.

    Farther towards the top of the frame, farther where the picture is bright and pale (the colour
    attenuation prior of Zhu et al., "A Fast Single Image Haze Removal Algorithm Using Color
    Attenuation Prior", IEEE TIP 2015), and modulated by a smooth random field.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      seed: of the random field.

    Returns:
      float32 [H, W] in [0, 1].
    """
    height, width = image.shape[:2]
    field = smooth_field(np.random.default_rng(seed), height, width, cells=3)
    upward = np.linspace(1, 0, height, dtype=np.float32)[:, None]
    small = shrink(image, 4)
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    value = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    cue = np.float32(0.96) * value - np.float32(0.78) * (1 - least / np.maximum(value, 1e-3))
    cue = _guided_filter(luma(image), luma(small), cue, radius=6, epsilon=0.01)
    depth = 0.38 + 0.4 * upward + 0.22 * field + 0.4 * (cue - cue.mean())
    return np.clip(depth, 0.1, 1)


def _guided_filter(
    guide: np.ndarray, small_guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float
) -> np.ndarray:
    """Smooth values at a quarter of the resolution, and bring them up along the guide's edges.

    He & Sun, "Fast Guided Filter", arXiv:1505.00996.
    """

    def mean(field):
        size = 2 * radius + 1
        return cv2.blur(field, (size, size), borderType=cv2.BORDER_REPLICATE)

    average, average_guide = mean(values), mean(small_guide)
    covariance = mean(values * small_guide) - average * average_guide
    variance = mean(small_guide * small_guide) - average_guide * average_guide
    slope = covariance / (variance + np.float32(epsilon))
    offset = average - slope * average_guide
    height, width = guide.shape
    slope, offset = (enlarge(mean(field), height, width, 4) for field in (slope, offset))
    return slope * guide + offset
