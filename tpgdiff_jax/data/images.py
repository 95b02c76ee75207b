"""Read photographs of any kind as 8-bit RGB, and write them without ever leaving half a file."""

import os
import pathlib

import numpy as np
from PIL import Image, ImageOps

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class UnreadableImageError(Exception):
    """A file that is no usable image; the message says which file and why."""


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return (height, width) from the file's header, orientation applied; decodes nothing.

    Raises:
      UnreadableImageError: no image, or not one that can be opened.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: {_reason(error)}") from error
    return (width, height) if turned else (height, width)


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Read a photo: grey is repeated, alpha dropped, 16 bit scaled to 8, orientation applied.

    Args:
      path: an image file.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UnreadableImageError: no image, truncated, or too large to be one.
    """
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith(("I", "F")):
                return _from_deep_grey(np.asarray(image), image.mode)
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: {_reason(error)}") from error


def _from_deep_grey(grey: np.ndarray, mode: str) -> np.ndarray:
    """Scale 16-bit (or float in [0, 1]) grey values to 8 bit and repeat them."""
    scale = 255.0 if mode == "F" else 255 / 65535
    grey = np.round(np.clip(grey.astype(np.float64) * scale, 0, 255)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, whatever its name says"
    return str(error) or type(error).__name__


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image under a temporary name, then rename it: never a half-written file.

    Args:
      path: where to; the ending chooses the format.  Missing folders are made.
      image: uint8 [H, W, 3].
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    Image.fromarray(image).save(temporary)
    os.replace(temporary, path)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round a float image in [0, 1] to uint8, clipping what lies outside."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
