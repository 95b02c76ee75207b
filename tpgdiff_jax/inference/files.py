"""Read pictures with all their bits, and write them so that no reader ever sees half a file."""

import os
import pathlib

import cv2
import numpy as np
from PIL import Image

from tpgdiff_jax.data.images import UnreadableImageError, encode, open_image, opened
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import replacing

DEEP_SUFFIXES = (".png", ".tif", ".tiff")  # formats that hold 16 bit and alpha
_ALPHA_SUFFIXES = (*DEEP_SUFFIXES, ".webp")
_LOSSY = {".jpg": {"quality": 95}, ".jpeg": {"quality": 95}, ".webp": {"quality": 95}}
_JPEG_LONGEST, _WEBP_LONGEST = 65_500, 16_383  # pixels, the formats' own limits
_LONGEST = {".jpg": _JPEG_LONGEST, ".jpeg": _JPEG_LONGEST, ".webp": _WEBP_LONGEST}


def read_picture(path: str | os.PathLike) -> Image.Image | np.ndarray:
    """Read a picture of any kind, orientation applied.

    Args:
      path: an image file.

    Returns:
      a PIL image; for colours of 16 bit, which Pillow would cut down to 8, uint16 [H, W, 3] or
      [H, W, 4].

    Raises:
      UnreadableImageError: no image, a damaged one, or one too large.
    """
    with opened(path, str(path)) as image:
        is_deep = image.mode in ("RGB", "RGBA", "LA") and _has_deep_channels(image)
        planes = getattr(image, "tag_v2", {}).get(284, 1)  # PlanarConfiguration
        # Of a PNG this decodes the pixels, so it must stay in this block.
        orientation = image.getexif().get(0x0112, 1) if is_deep else 1
    if is_deep and planes != 1:
        raise UnreadableImageError(path, "16-bit TIFF with one plane per colour, not read")
    return _read_deep(path, orientation) if is_deep else open_image(path)


def _has_deep_channels(image: Image.Image) -> bool:
    """Tell whether the file of an opened image holds more than 8 bits a channel."""
    bits = getattr(image, "tag_v2", {}).get(258, 8)  # TIFF: BitsPerSample, one or for each channel
    raw_modes = (str(tile.args) for tile in image.tile)  # PNG: such as RGB;16B
    return np.max(bits) > 8 or any(";16" in mode for mode in raw_modes)


def _read_deep(path: str | os.PathLike, orientation: int) -> np.ndarray:
    data = np.fromfile(path, np.uint8)  # cv2.imread fails on some names
    try:
        image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UnreadableImageError(path, f"damaged ({error.err})") from error
    if image is None or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise UnreadableImageError(path, "damaged, or a kind of 16-bit picture that is not read")
    to_rgb = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return _turned(cv2.cvtColor(image, to_rgb), orientation)


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    upside_down = orientation in (3, 4, 7, 8)
    mirrored = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def for_format(image: np.ndarray, suffix: str) -> np.ndarray:
    """Leave out what a format cannot hold: 16 bit and alpha.

    Args:
      image: uint8, uint16 or float in [0, 1], [H, W], [H, W, 3] or [H, W, 4].
      suffix: of the file, lower case.

    Returns:
      uint8 or uint16.

    Raises:
      UserError: the image is larger than the format allows.
    """
    if max(image.shape[:2]) > _LONGEST.get(suffix, 2**31):
        raise UserError(f"{suffix[1:]} holds at most {_LONGEST[suffix]} pixels a side")
    if np.issubdtype(image.dtype, np.floating):
        image = np.round(image * 65535).astype(np.uint16)
    if suffix in DEEP_SUFFIXES:
        return image
    if image.dtype == np.uint16:
        image = np.round(image / 257).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] == 4 and suffix not in _ALPHA_SUFFIXES:
        image = np.ascontiguousarray(image[..., :3])
    return image


def write_picture(path: pathlib.Path, image: np.ndarray, icc_profile: bytes | None = None) -> None:
    """Write a picture under a name of its own, then rename it.

    Args:
      path: where to; the ending chooses the format.  Missing folders are made.
      image: as `for_format` returns it.
      icc_profile: what the picture's numbers mean as colours; kept for 8 bit.

    Raises:
      OSError: disk full, folder read-only, ...; nothing is left behind.
    """
    suffix = path.suffix.lower()
    with replacing(path) as temporary:
        if image.dtype == np.uint16 and image.ndim == 3:
            to_bgr = cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR
            encoded, data = cv2.imencode(suffix, cv2.cvtColor(image, to_bgr))
            if not encoded:
                raise OSError(f"{path} could not be encoded")
            temporary.write_bytes(data.tobytes())
        else:
            options = {"icc_profile": icc_profile} if icc_profile else {}
            options |= _LOSSY.get(suffix, {})
            temporary.write_bytes(encode(Image.fromarray(image), suffix, **options))
