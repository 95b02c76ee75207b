"""Which kind of picture a file is, by its content; which names folders are searched for."""

import os
import re

from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.foreign import foreign

# What pictures are called that are read; a file named by itself may have any name.
EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".pbm", ".tga"),
    *(".apng", ".mpo", ".jif"),
)
# What pictures are called that are not read: counted where they are left out.
UNREAD = (
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".raw", ".psd", ".psb", ".xcf", ".svg", ".eps", ".ai", ".pdf", ".exr", ".hdr", ".pfm"),
    *(".jxr", ".wdp", ".dcm", ".fits", ".dds", ".ico", ".icns", ".pcx", ".qoi", ".bpg", ".flif"),
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".npy", ".npz", ".mat", ".h5"),
)

_JPEG2000 = (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_JXL = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n")
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"8BPS", "PSD"),
    (b"qoif", "QOI"),
    (b"\x00\x00\x01\x00", "ICO"),
    *((start, "JPEG2000") for start in _JPEG2000),
    *((start, "JXL") for start in _JXL),
    *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# Recognised, but not read: what they are, and the way out.
_REFUSED = (
    (rb"II\*\0.{4}CR", "a raw photo (Canon CR2); develop it to TIFF or JPEG first"),
    (rb"IIU\0|IIRO|IIRS", "a raw photo (Panasonic or Olympus); develop it to TIFF or JPEG first"),
    (rb"FUJIFILMCCD-RAW", "a raw photo (Fuji RAF); develop it to TIFF or JPEG first"),
    (rb".{4}ftypcrx", "a raw photo (Canon CR3); develop it to TIFF or JPEG first"),
    (rb"\x76\x2f\x31\x01", "an OpenEXR picture; convert it to a 16-bit TIFF or PNG first"),
    (rb"#\?(RADIANCE|RGBE)", "a Radiance HDR picture; convert it to a 16-bit TIFF or PNG first"),
    (rb"P[Ff]\n", "a PFM picture; convert it to a 16-bit TIFF or PNG first"),
    (rb"II\xbc\x01", "a JPEG XR picture; convert it to PNG first"),
    (rb"SIMPLE  =", "a FITS picture; convert it to a 16-bit TIFF or PNG first"),
    (rb".{128}DICM", "a DICOM picture; convert it to a 16-bit TIFF or PNG first"),
    (rb"gimp xcf", "a GIMP project; export it as PNG first"),
    (rb"\x89MNG|\x8bJNG", "an MNG or JNG picture; convert it to PNG first"),
)


def is_picture_name(name: str) -> bool:
    """Tell by its name whether a file in a folder is taken for a picture."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def kind_of(head: bytes, name: str) -> str:
    """Return the kind of a file, such as "JPEG" (Pillow's names).

    Args:
      head: its beginning, see `foreign.HEAD_BYTES`.
      name: decides for TGA alone, which has no mark of its own.

    Raises:
      UserError: it is none that is read; says what it is and the way out.
    """
    if not head:
        raise UserError("empty file (0 bytes)")
    if not head.strip(b"\0"):
        raise UserError("nothing but zeros: a broken copy or download")
    for pattern, what in _REFUSED:
        if re.match(pattern, head, re.S):
            raise UserError(f"{what}, which is not read")
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(len(head), 64), 4))]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if head[8:12] in _HEIF_BRANDS:
            return "HEIF"
    if re.match(rb"P[1-7][\s#]", head):
        return "PPM"
    if what := foreign(head):
        raise UserError(f"not a picture but {what}")
    if os.path.splitext(name)[1].lower() == ".tga":
        return "TGA"
    raise UserError("not an image, whatever its name says")
