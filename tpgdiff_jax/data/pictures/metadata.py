"""What a file says beside its pixels: kept where it is sound, left out where it is broken.

Broken metadata never costs a picture: pixels are read by other code.
"""

import dataclasses
import re
import struct

from PIL import Image

ORIENTATION = 0x0112
_EXIF_START = b"Exif\0\0"
_FURTHER_BLOCKS = (0x8769, 0x8825)  # of the camera, and of the place
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)([0-9])")
# Colour space that an ICC profile is for -> channels of the pixels, alpha left out.
_CHANNELS = {b"GRAY": 1, b"RGB ": 3}
_MOST_DPI = 1e6


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What is kept of a picture besides its pixels.

    Attributes:
      icc: colour profile, as the file had it.
      exif: EXIF block that begins with its TIFF header; of a picture that is upright now.
      xmp: XMP packet, likewise.
      dpi: pixels per inch along (width, height).
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None

    def upright(self, is_turned: bool) -> "Metadata":
        """Return what holds of the picture after it was turned: orientation 1."""
        return dataclasses.replace(
            self,
            exif=None if self.exif is None else _with_orientation_1(self.exif),
            xmp=None if self.xmp is None else _XMP_ORIENTATION.sub(rb"\g<1>1", self.xmp),
            dpi=self.dpi[::-1] if self.dpi and is_turned else self.dpi,
        )


NO_METADATA = Metadata()


def sound_profile(icc: bytes | None, colours: int) -> bytes | None:
    """Return an ICC profile if it is one, and for so many colour channels (1 or 3); else None."""
    if not isinstance(icc, bytes) or len(icc) < 132 or icc[36:40] != b"acsp":
        return None
    return icc if _CHANNELS.get(icc[16:20]) == colours else None


def sound_exif(exif: bytes | None) -> bytes | None:
    """Return an EXIF block without its prefixes, or None where it has no TIFF header."""
    if not isinstance(exif, bytes):
        return None
    while exif.startswith(_EXIF_START):
        exif = exif[len(_EXIF_START) :]
    return exif if exif[:4] in (b"II*\0", b"MM\0*") and len(exif) >= 14 else None


def sound_dpi(dpi: object) -> tuple[float, float] | None:
    """Return (horizontal, vertical) pixels per inch, or None where they are no such thing."""
    try:
        across, down = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    sound = 0 < across < _MOST_DPI and 0 < down < _MOST_DPI
    return (across, down) if sound else None


def exif_block(exif: bytes) -> Image.Exif:
    """Open an EXIF block to write it anew; texts are bytes as they were, whatever their encoding.

    Args:
      exif: as `Metadata` has it.

    Raises:
      Exception: anything; what a broken block makes Pillow raise.
    """
    block = Image.Exif()
    block.load(_EXIF_START + exif)
    for tags in (block, *map(block.get_ifd, _FURTHER_BLOCKS)):
        for tag, value in list(tags.items()):
            if isinstance(value, str):  # which Pillow reads as Latin-1 and writes as ASCII
                tags[tag] = value.encode("latin-1", "replace")
    return block


def orientation_of(exif: bytes | None, xmp: bytes | None = None) -> int:
    """Return the orientation, 1 to 8, that EXIF gives, else XMP; 1 where neither says."""
    sound = sound_exif(exif)
    if sound is not None:
        block = Image.Exif()
        try:
            block.load(_EXIF_START + sound)
            value = block.get(ORIENTATION)
        except Exception:  # whatever a broken block makes Pillow raise: it gives none then
            value = None
        if value is not None:
            return value if isinstance(value, int) and 1 <= value <= 8 else 1
    found = _XMP_ORIENTATION.search(xmp or b"")
    return int(found[2]) if found and 1 <= int(found[2]) <= 8 else 1


def _with_orientation_1(exif: bytes) -> bytes | None:
    """Set the orientation of an EXIF block to 1 in place, so that all else stays as it was."""
    order = "<" if exif[:2] == b"II" else ">"
    changed = bytearray(exif)
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", exif, entry)
            if tag == ORIENTATION:
                form = {3: "H", 4: "I"}.get(kind)
                if form is None or number * struct.calcsize(form) > 4:
                    return None
                struct.pack_into(f"{order}{form}", changed, entry + 8, 1)
    except struct.error:
        return None
    return bytes(changed)
