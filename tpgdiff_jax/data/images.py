"""Read photographs of any kind as 8-bit RGB, and write them without ever leaving half a file."""

import errno
import io
import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import replacing

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

# Larger images are refused: decoded they would fill the memory.  It is where Pillow begins to warn.
MAX_PIXELS = 89_478_485

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_PNG_LEVEL = 3  # of 9: nearly as small as the default of 6, in half the time
_NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)  # the machine is in trouble


class UnreadableImageError(Exception):
    """A file that is no usable image.

    Attributes:
      file: which one.
      reason: why, in a few words.
    """

    def __init__(self, file: str | os.PathLike, reason: str):
        super().__init__(str(file), reason)
        self.file, self.reason = str(file), reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


def read_size(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return (height, width) from the file's header, orientation applied; decodes nothing.

    Args:
      path: an image file.
      max_pixels: larger images are refused.

    Raises:
      UnreadableImageError: no image, or not one that can be opened.
    """
    with opened(path, str(path), max_pixels) as image:
        # The base class reads what the header holds; a PNG's own getexif would decode the pixels.
        turned = Image.Image.getexif(image).get(0x0112, 1) in _TURNED
        width, height = image.size
    return (width, height) if turned else (height, width)


def read_rgb(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read a photo of any kind as 8-bit RGB; its content decides, not its name.

    Grey is repeated, alpha dropped, palettes and CMYK are converted, 16 bit scaled to 8, EXIF
    orientation applied; of an animation the first frame is taken.

    Args:
      path: an image file.
      max_pixels: larger images are refused.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UnreadableImageError: empty, no image, truncated, damaged or too large; says which.
    """
    with opened(path, str(path), max_pixels) as image:
        return _to_rgb(image)


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """Cut the central square of an image [H, W, C], of at most `side` pixels; 0 keeps it whole."""
    if side == 0:
        return image
    top, left = (max(0, (extent - side) // 2) for extent in image.shape[:2])
    return image[top : top + side, left : left + side]


def open_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image as it is, decoded, with its orientation applied: grey, alpha, 16 bit stay.

    Args:
      path: an image file.
      max_pixels: larger images are refused.

    Raises:
      UnreadableImageError: as `read_rgb`.
    """
    with opened(path, str(path), max_pixels) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def decode_rgb(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file held in memory, as `read_rgb` does.

    Args:
      data: the file's content.
      name: what errors call it.
      max_pixels: larger images are refused.

    Returns:
      uint8 [H, W, 3].

    Raises:
      UnreadableImageError: as `read_rgb`.
    """
    with opened(io.BytesIO(data), name, max_pixels) as image:
        return _to_rgb(image)


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] as a PNG file, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


@contextmanager
def opened(
    source: str | os.PathLike | io.BytesIO, name: str, max_pixels: int = MAX_PIXELS
) -> Iterator[Image.Image]:
    """Open an image, turning whatever goes wrong before the block ends into one exception.

    Args:
      source: a file's path or content.
      name: what errors call it.
      max_pixels: larger images are refused.

    Raises:
      UnreadableImageError: whatever is wrong with the file.
      OSError: what is wrong with the machine.
    """
    try:
        with Image.open(source) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UserError(f"{width}x{height} is more than {max_pixels} pixels")
            yield image
    except MemoryError:
        raise
    except Exception as error:  # damaged files make decoders raise anything
        if isinstance(error, OSError) and error.errno in _NOT_THE_FILE:
            raise OSError(error.errno, error.strerror, name) from error
        raise UnreadableImageError(name, _reason(error, source)) from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _from_deep_grey(np.asarray(image), image.mode)
    if "transparency" in image.info:  # from a palette, Pillow drops alpha only by way of RGBA
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _from_deep_grey(grey: np.ndarray, mode: str) -> np.ndarray:
    """Scale 16-bit (or float in [0, 1]) grey values to 8 bit and repeat them."""
    grey = grey.astype(np.float64)
    largest = 1.0 if mode == "F" else 65535.0
    if not np.isfinite(grey).all() or grey.max() > 2 * largest:
        raise UserError(f"grey values up to {grey.max():g}, expected 0 to {largest:g}")
    grey = np.round(np.clip(grey / largest, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _reason(error: Exception, source: str | os.PathLike | io.BytesIO) -> str:
    """Say in plain words what is wrong with a file."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, no image"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied)"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return str(error).partition(",")[0]  # without "could be decompression bomb DOS attack"
    if _is_empty(source):
        return "empty file (0 bytes)"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, whatever its name says"
    text = str(error) or type(error).__name__
    if "truncat" in text.lower() or isinstance(error, EOFError):
        return "truncated"
    if isinstance(error, UserError):
        return text
    return f"damaged ({text})"


def _is_empty(source: str | os.PathLike | io.BytesIO) -> bool:
    if isinstance(source, io.BytesIO):
        return source.getbuffer().nbytes == 0
    return os.path.getsize(source) == 0


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image under a temporary name, then rename it: never a half-written file.

    Args:
      path: where to; the ending chooses the format.  Missing folders are made.
      image: uint8 [H, W, 3].

    Raises:
      OSError: disk full, folder read-only, ...; nothing is left behind.
    """
    path = pathlib.Path(path)
    with replacing(path) as temporary:
        temporary.write_bytes(encode(Image.fromarray(image), path.suffix))


def encode(image: Image.Image, suffix: str, **options: Any) -> bytes:
    """Encode an image in memory.

    Pillow's JPEG encoder, writing to a file itself, does not notice when the disk is full.

    Args:
      image: of a mode that the format holds.
      suffix: of the file; chooses the format.
      options: of the format, as for `Image.save`.

    Raises:
      UserError: a suffix of no format that can be written.
    """
    kind = Image.registered_extensions().get(suffix.lower())
    if kind not in Image.SAVE:
        raise UserError(
            f"{suffix!r} is no image format that can be written; expected one of "
            f"{', '.join(EXTENSIONS)}."
        )
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Round a float image in [0, 1] to uint8, clipping what lies outside."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
