"""Photographs as 8-bit RGB, and files of them written whole."""

import os
import pathlib

import numpy as np

from tpgdiff_jax.data.pictures import door
from tpgdiff_jax.data.pictures.picture import to_8_bit
from tpgdiff_jax.data.pictures.writing import encode_picture, for_format
from tpgdiff_jax.reporting.files import replacing


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return (height, width) from the file's header, orientation applied; decodes nothing.

    Raises:
      UnreadableImageError: no image, or not one that can be opened.
    """
    return door.read_size(path)


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Read a photo of any kind as 8-bit RGB; its content decides, not its name.

    Grey is repeated, alpha dropped, palettes and CMYK are converted, 16 bit rounded to 8, the
    orientation applied; of an animation the first frame is taken.

    Args:
      path: an image file.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UnreadableImageError: empty, no image, truncated, damaged or too large; says which.
    """
    return door.read_picture(path).rgb8()


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Cut the central square of an image [H, W, C], of at most `side` pixels; 0 keeps it whole."""
    if side == 0:
        return image
    top, left = (max(0, (extent - side) // 2) for extent in image.shape[:2])
    return image[top : top + side, left : left + side]


def cut_like(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut the centre of (height, width) out of an image that is at least as large."""
    top, left = (max(0, (have - want) // 2) for have, want in zip(image.shape, size, strict=False))
    return image[top : top + size[0], left : left + size[1]]


def decode_rgb(data: bytes, name: str) -> np.ndarray:
    """Decode an image file held in memory, as `read_rgb` does.

    Args:
      data: the file's content.
      name: what errors call it.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UnreadableImageError: as `read_rgb`.
    """
    return door.read_picture(bytes(data), name).rgb8()


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] as a PNG file, without loss."""
    return encode_picture(image, ".png")


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image under a temporary name, then rename it: never a half-written file.

    Args:
      path: where to; the ending chooses the format.  Missing folders are made.
      image: uint8 [H, W, 3].

    Raises:
      UserError: a suffix of no format that can be written.
      OSError: disk full, folder read-only, ...; nothing is left behind.
    """
    path = pathlib.Path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(encode_picture(for_format(image, path.suffix.lower()), path.suffix))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round a float image in [0, 1] to uint8, clipping what lies outside."""
    return to_8_bit(np.asarray(image))
