"""Photographs as 8-bit RGB, and files of them written whole."""

import errno
import os
import pathlib

import numpy as np
from PIL import Image

from tpgdiff_jax.data.pictures.door import read_picture
from tpgdiff_jax.data.pictures.metadata import Metadata
from tpgdiff_jax.data.pictures.writing import encode_picture, for_format
from tpgdiff_jax.reporting.files import printable, replacing
from tpgdiff_jax.stores.places import shown
from tpgdiff_jax.stores.sending import is_there, put
from tpgdiff_jax.stores.urls import is_url, normal


def read_rgb(source: str | os.PathLike | bytes, name: str = "") -> np.ndarray:
    """Read a photo of any kind as 8-bit RGB; its content decides, not its name.

    Grey is repeated, alpha dropped, palettes and CMYK are converted, 16 bit rounded to 8, the
    orientation applied; of an animation the first frame is taken.

    Args:
      source: an image file's path or content.
      name: what errors call it; the path by default.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UnreadableImageError: empty, no image, truncated, damaged or too large; says which.
    """
    return read_picture(source, name).rgb8()


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Cut the central square of an image [H, W, C], of at most `side` pixels; 0 keeps it whole."""
    if side == 0:
        return image
    top, left = (max(0, (extent - side) // 2) for extent in image.shape[:2])
    return image[top : top + side, left : left + side]


def square_of(image: np.ndarray, side: int, kernel: Image.Resampling) -> np.ndarray:
    """Cut the largest central square of an image uint8 [H, W, 3] and bring it to `side` pixels."""
    square = Image.fromarray(centre_crop(image, min(image.shape[:2])))
    return np.asarray(square.resize((side, side), kernel))


def cut_like(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut the centre of (height, width) out of an image that is at least as large."""
    top, left = (max(0, (have - want) // 2) for have, want in zip(image.shape, size, strict=False))
    return image[top : top + size[0], left : left + size[1]]


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] as a PNG file, without loss."""
    return encode_picture(image, ".png")


def write_image(
    path: str | os.PathLike,
    image: np.ndarray,
    metadata: Metadata | None = None,
    *,
    replaces: bool = True,
) -> None:
    """Write an image under a temporary name, then rename it: never a half-written file.

    Args:
      path: where to, also in a store; the ending chooses the format.  Missing folders are made.
      image: as `writing.for_format` takes it.
      metadata: of the picture it was made from; kept as far as the format can hold it.
      replaces: see `files.replacing`; in a store one that comes at the same moment is replaced.

    Raises:
      UserError: a suffix of no format that can be written, or a side too long for it.
      OSError: disk full, folder read-only, ..., or it is there; nothing is left behind.
    """
    path = pathlib.Path(path)
    pixels = for_format(image, path.suffix.lower())
    data = encode_picture(pixels, path.suffix, metadata, printable(shown(path)))
    if is_url(path):
        if not replaces and is_there(normal(path)):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), normal(path))
        put(normal(path), data)
        return
    with replacing(path, replaces=replaces) as temporary:
        temporary.write_bytes(data)
