"""What happens between the camera and the reader: compression and resizing."""

import io
import itertools

import numpy as np
from PIL import Image

from tpgdiff_jax.data.degradations.image_ops import geometric_ramp, ramp

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# A quality that stands for "not compressed": even quality 100 changes pixels.
LOSSLESS = 101
# Longest sides that the encoders take, in whole blocks of both formats.
_LONGEST = {"JPEG": 65488, "WEBP": 16368}


def sample_jpeg(rng: np.random.Generator, severity: float) -> dict[str, int | str]:
    """Draw the parameters of `jpeg`: a quality of about 60 to 8 at severity 1 to 5."""
    wanted = geometric_ramp(severity, 60, 8, at_zero=LOSSLESS) * rng.uniform(0.85, 1.15)
    quality = round(min(wanted, 100)) if severity > 0 else LOSSLESS
    subsampling = "4:2:0" if rng.random() < 0.7 else "4:4:4"
    # A quarter was compressed before, less, and cropped since: the two grids of blocks differ.
    twice, gentler, shift = rng.random() < 0.25, rng.uniform(1.2, 2.5), int(rng.integers(8))
    before = min(round(wanted * gentler), 97) if twice and severity > 0 else LOSSLESS
    return {"quality": quality, "subsampling": subsampling, "before": before, "shift": shift}


def jpeg(
    image: np.ndarray, *, quality: int, subsampling: str, before: int = LOSSLESS, shift: int = 0
) -> np.ndarray:
    """Compress as JPEG (ITU-T T.81) and read back, once or twice.

    Compression twice, with blocks that do not coincide, is from Jiang et al., "Towards Flexible
    Blind JPEG Artifacts Removal" (FBCNN, ICCV 2021).

    Args:
      image: float32 [H, W, 3] in [0, 1].
      quality: of libjpeg, 1 to 100; `LOSSLESS` for no compression.
      subsampling: of the colours, "4:4:4" or "4:2:0".
      before: quality of an earlier compression; `LOSSLESS` for none.
      shift: by how many pixels the earlier one's blocks lie higher and farther left, 0 to 7.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    if before < LOSSLESS:
        wider = np.pad(image, ((shift, 0), (shift, 0), (0, 0)), mode="edge")
        image = _code(wider, before, "JPEG", subsampling=subsampling)[shift:, shift:]
    return _code(image, quality, "JPEG", subsampling=subsampling)


def sample_webp(rng: np.random.Generator, severity: float) -> dict[str, int]:
    """Draw the parameters of `webp`: a quality of about 40 to 2 at severity 1 to 5."""
    quality = geometric_ramp(severity, 40, 2, at_zero=LOSSLESS) * rng.uniform(0.85, 1.15)
    return {"quality": round(min(quality, 100)) if severity > 0 else LOSSLESS}


def webp(image: np.ndarray, *, quality: int) -> np.ndarray:
    """Compress as lossy WebP (RFC 9649) and read back.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      quality: of libwebp, 0 to 100; `LOSSLESS` for no compression.

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    # Method 0 is libwebp's fastest search; slower ones save bytes, and degrade alike.
    return _code(image, quality, "WEBP", method=0)


def _code(image: np.ndarray, quality: int, file_format: str, **options) -> np.ndarray:
    """Compress and read back; what is too long for a format part by part."""
    if quality >= LOSSLESS:
        return image.copy()
    found, longest = np.empty(image.shape, np.float32), _LONGEST[file_format]
    for top, left in itertools.product(*(range(0, side, longest) for side in image.shape[:2])):
        part = np.s_[top : top + longest, left : left + longest]
        buffer = io.BytesIO()
        _to_pillow(image[part]).save(buffer, file_format, quality=quality, **options)
        with Image.open(buffer) as coded:
            found[part] = np.asarray(coded.convert("RGB"), np.float32) / np.float32(255)
    return found


def _to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(image * 255).astype(np.uint8))


def sample_resample(rng: np.random.Generator, severity: float) -> dict[str, float | str]:
    """Draw the parameters of `resample`: 1.5 to 4 times smaller at severity 1 to 5."""
    return {
        "factor": ramp(severity, 1.5, 4.0, at_zero=1.0),
        "down": ("box", "bilinear", "bicubic", "lanczos")[rng.integers(4)],
        "up": ("nearest", "bilinear", "bicubic", "lanczos")[rng.integers(4)],
    }


def resample(image: np.ndarray, *, factor: float, down: str, up: str) -> np.ndarray:
    """Shrink and enlarge again, with one of several kernels each.

    The low resolution of Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution
    with Pure Synthetic Data" (ICCVW 2021), at the original size.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      factor: how many times smaller each side becomes, at least 1.
      down, up: "nearest", "box", "bilinear", "bicubic" or "lanczos".

    Returns:
      float32 [H, W, 3] in [0, 1].
    """
    height, width = image.shape[:2]
    size = max(1, round(width / factor)), max(1, round(height / factor))
    if size == (width, height):
        return image.copy()
    small = _to_pillow(image).resize(size, _FILTERS[down])
    large = small.resize((width, height), _FILTERS[up])
    return np.asarray(large, np.float32) / np.float32(255)
