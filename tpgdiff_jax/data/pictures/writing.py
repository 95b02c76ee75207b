"""Write pictures with what belongs to them: 8 and 16 bit, alpha, profile, EXIF, XMP and dpi."""

import dataclasses
import io
import struct
import zlib
from typing import Any

import numpy as np
from absl import logging
from PIL import Image, PngImagePlugin

from tpgdiff_jax.data.pictures.metadata import Metadata, exif_block, sound_profile
from tpgdiff_jax.data.pictures.picture import to_8_bit
from tpgdiff_jax.data.pictures.png import SIGNATURE, chunk
from tpgdiff_jax.data.pictures.tiff import TEXT_TAGS
from tpgdiff_jax.reporting.errors import UserError

# Formats that can be written; read are more, see `kinds.EXTENSIONS`.
WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_DEEP = (".png", ".tif", ".tiff")  # these hold 16 bit and alpha
_ALPHA = (*_DEEP, ".webp")
_QUALITY = 95
_PNG_LEVEL = 3  # of 9: nearly as small as the default of 6, in half the time
_LONGEST = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # pixels, the formats' own limits
_MOST_SEGMENT = 65_533  # bytes of EXIF or XMP in a JPEG
_METRE_IN_INCHES = 39.3701
# Of EXIF's first block, what tells of the photo, not of the file's layout: texts, orientation,
# resolution, and where the further blocks and that of the place lie.
_DESCRIBING = {*TEXT_TAGS, 274, 282, 283, 296, 0x8769, 0x8825}


def for_format(pixels: np.ndarray, suffix: str) -> np.ndarray:
    """Bring pixels to what a format can hold.

    Floats become 16 bit, 16 bit 8 where there are only 8; what is transparent is laid on white
    where there is no alpha.

    Args:
      pixels: uint8, uint16 or float in [0, 1]; [H, W], [H, W, 2], [H, W, 3] or [H, W, 4].
      suffix: of the file, lower case.

    Returns:
      uint8 or uint16.

    Raises:
      UserError: the picture is larger than the format allows.
    """
    if max(pixels.shape[:2]) > _LONGEST.get(suffix, 2**31):
        raise UserError(f"{suffix[1:]} holds at most {_LONGEST[suffix]} pixels a side")
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = np.round(np.clip(pixels, 0, 1) * 65535).astype(np.uint16)
    has_alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    if has_alpha and suffix not in _ALPHA:
        pixels = _on_white(pixels)
    return pixels if suffix in _DEEP else to_8_bit(pixels)


def encode_picture(
    pixels: np.ndarray,
    suffix: str,
    metadata: Metadata | None = None,
    name: str = "a picture in memory",
) -> bytes:
    """Encode a picture in memory.

    Pillow's JPEG encoder, writing to a file itself, does not notice when the disk is full.

    Args:
      pixels: as `for_format` returns them.
      suffix: of the file; chooses the format.
      metadata: what is kept as far as the format can hold it; a profile only where it is for these
        channels, and EXIF only where it is sound.
      name: what the log calls the picture.

    Raises:
      UserError: a format that is not written.
    """
    suffix = suffix.lower()
    if suffix not in WRITTEN:
        raise UserError(
            f"{suffix!r} is no image format that can be written; expected one of "
            f"{', '.join(WRITTEN)}."
        )
    pixels = np.ascontiguousarray(pixels)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if suffix == ".webp" and pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = pixels[..., [0, 0, 0, 1]]  # WebP knows no grey
    metadata = metadata or Metadata()
    colours = 1 if pixels.ndim == 2 or pixels.shape[2] == 2 else 3
    icc = sound_profile(metadata.icc, 3 if suffix == ".webp" else colours)
    if metadata.exif and not _takes_exif(pixels.dtype, suffix, metadata.exif):
        logging.warning("%s is written without EXIF: that of its photo is damaged.", name)
        metadata = dataclasses.replace(metadata, exif=None)
    return _encoded(pixels, suffix, metadata, icc)


def _takes_exif(depth: np.dtype, suffix: str, exif: bytes) -> bool:
    """Tell whether a block can be written; a picture of one pixel shows it."""
    try:
        _encoded(np.zeros((1, 1), depth), suffix, Metadata(exif=exif), None)
    except Exception:  # whatever a broken block makes Pillow raise; all else there is sound
        return False
    return True


def _encoded(pixels: np.ndarray, suffix: str, metadata: Metadata, icc: bytes | None) -> bytes:
    if pixels.dtype == np.uint16:
        encode = _deep_png if suffix == ".png" else _deep_tiff
        return encode(pixels, metadata, icc)
    return _by_pillow(pixels, suffix, metadata, icc)


def _by_pillow(pixels: np.ndarray, suffix: str, metadata: Metadata, icc: bytes | None) -> bytes:
    options: dict[str, Any] = {"icc_profile": icc} if icc else {}
    if metadata.exif:
        options["exif"] = metadata.exif
    if metadata.dpi:
        options["dpi"] = metadata.dpi
    if metadata.xmp and suffix != ".png":
        options["xmp"] = metadata.xmp
    if suffix == ".png":
        options["compress_level"] = _PNG_LEVEL
        if metadata.xmp:
            options["pnginfo"] = info = PngImagePlugin.PngInfo()
            info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    elif suffix in (".jpg", ".jpeg"):
        options["quality"] = _QUALITY
        if metadata.exif:
            options["exif"] = b"Exif\0\0" + metadata.exif
        for key in ("exif", "xmp"):  # longer ones do not fit
            if len(options.get(key, b"")) > _MOST_SEGMENT - 40:
                del options[key]
    elif suffix == ".webp":
        options["quality"] = _QUALITY
        options.pop("dpi", None)
    elif suffix in (".tif", ".tiff"):
        options.pop("xmp", None)
        options["exif"] = block = exif_block(metadata.exif) if metadata.exif else Image.Exif()
        # Some cameras and programs note there how their own file was laid out.
        for tag in set(block) - _DESCRIBING:
            del block[tag]
        if metadata.xmp:
            block[700] = metadata.xmp
    else:  # BMP
        options = {key: value for key, value in options.items() if key == "dpi"}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


def _deep_png(pixels: np.ndarray, metadata: Metadata, icc: bytes | None) -> bytes:
    import imagecodecs  # takes a while to import, and few files need it

    encoded = imagecodecs.png_encode(pixels, level=_PNG_LEVEL)
    extra = chunk(b"iCCP", b"profile\0\0" + zlib.compress(icc)) if icc else b""
    if metadata.dpi:
        across, down = (round(value * _METRE_IN_INCHES) for value in metadata.dpi)
        extra += chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if metadata.exif:
        extra += chunk(b"eXIf", metadata.exif)
    if metadata.xmp:
        extra += chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)
    header_end = len(SIGNATURE) + 25
    return encoded[:header_end] + extra + encoded[header_end:]


def _deep_tiff(pixels: np.ndarray, metadata: Metadata, icc: bytes | None) -> bytes:
    """Write 16 bit, packed without loss; of the EXIF the descriptive texts are kept."""
    import tifffile

    tags: list[tuple] = []
    if metadata.exif:
        block = exif_block(metadata.exif)
        texts = {tag: block.get(tag) for tag in TEXT_TAGS}
        tags += [(tag, "s", 0, text, True) for tag, text in texts.items() if type(text) is bytes]
    if metadata.xmp:
        tags.append((700, "B", len(metadata.xmp), metadata.xmp, True))
    has_alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    options: dict[str, Any] = {"iccprofile": icc} if icc else {}
    if metadata.dpi:
        options |= {"resolution": metadata.dpi, "resolutionunit": "inch"}
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels,
        photometric="minisblack" if pixels.ndim == 2 or pixels.shape[2] == 2 else "rgb",
        planarconfig="contig" if pixels.ndim == 3 else None,
        extrasamples=["unassalpha"] if has_alpha else None,
        compression="zlib",
        predictor=True,
        metadata=None,
        software=False,
        extratags=tags,
        **options,
    )
    return buffer.getvalue()


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """Lay colours with alpha on white; returns colours alone."""
    top = np.iinfo(pixels.dtype).max
    colours, veil = pixels[..., :-1].astype(np.float64), pixels[..., -1:] / top
    laid = np.round(colours * veil + top * (1 - veil)).astype(pixels.dtype)
    return laid[..., 0] if laid.shape[-1] == 1 else laid
