"""The size of a JPEG XL picture by its header: its decoder unpacks the whole picture at once."""

import struct
from collections.abc import Iterator

from tpgdiff_jax.data.pictures.picture import require

_CODESTREAM = b"\xff\x0a"
_BITS = (9, 13, 18, 30)  # of a side, by its selector
# Width over height, by its number; 0: written out.
_RATIOS = {1: (1, 1), 2: (6, 5), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def size_of(data: bytes) -> tuple[int, int]:
    """Return (height, width) as stored; their product is that of the upright picture, too.

    Args:
      data: the file, or enough of its beginning.

    Raises:
      UserError: the header is missing or cut off.
    """
    stream = data if data.startswith(_CODESTREAM) else _stream_in(data)
    require(stream.startswith(_CODESTREAM) and len(stream) >= 4, "damaged (no header)")
    bits = _bits_of(stream[2:14])
    if _number(bits, 1):  # both sides in units of 8 pixels
        height = 8 * (_number(bits, 5) + 1)
        ratio = _number(bits, 3)
        width = height if ratio else 8 * (_number(bits, 5) + 1)
    else:
        height = _number(bits, _BITS[_number(bits, 2)]) + 1
        ratio = _number(bits, 3)
        width = height if ratio else _number(bits, _BITS[_number(bits, 2)]) + 1
    if ratio:
        over, under = _RATIOS[ratio]
        width = height * over // under
    return height, width


def _stream_in(data: bytes) -> bytes:
    """Return the beginning of the pixels' stream in a file of boxes."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1 and start + 8 <= len(data):
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        if kind in (b"jxlc", b"jxlp"):  # whole, or the first part behind its number
            return data[start + 4 * (kind == b"jxlp") :][:32]
        if length < start - at:  # to the file's end, or nonsense
            break
        at += length
    return b""


def _bits_of(data: bytes) -> Iterator[int]:
    return (byte >> place & 1 for byte in data for place in range(8))


def _number(bits: Iterator[int], count: int) -> int:
    """Read so many bits, the least significant one first."""
    number = 0
    for place in range(count):
        bit = next(bits, None)
        require(bit is not None, "truncated")
        number |= bit << place
    return number
