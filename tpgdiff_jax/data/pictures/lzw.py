"""LZW of TIFF files by libtiff, in Pillow: imagecodecs' own decoder may crash on damaged data.

Seen with imagecodecs 2026.3.6: some streams with wrong codes end the process (a write outside of
its memory), others raise `IMCD_MEMORY_ERROR`.
"""

import io
import struct
import threading
from collections import ChainMap
from typing import Any

from tpgdiff_jax.data.pictures.picture import require
from tpgdiff_jax.data.pictures.pillow import opened

LZW = 5  # TIFF's number of the compression
_LOCK = threading.Lock()  # of the table


def use_libtiff(page: Any) -> None:
    """Let a page of tifffile take its decoder from here, if it is of LZW.

    tifffile has no other way than its table of decoders, which a page looks into once: for so long
    another table stands in its place.
    """
    if int(page.compression) != LZW:
        return
    import tifffile  # takes a while to import, and few files need it

    with _LOCK:
        usual = tifffile.TIFF.DECOMPRESSORS
        tifffile.TIFF.DECOMPRESSORS = ChainMap({LZW: decode}, usual)
        try:
            _ = page.decode
        finally:
            tifffile.TIFF.DECOMPRESSORS = usual


def decode(data: bytes, out: Any = None) -> bytes:
    """Unpack one part of a picture.

    Args:
      data: packed.
      out: how many bytes it has unpacked, or a buffer of as many.

    Raises:
      OSError: damaged.
    """
    size = out if isinstance(out, int) else len(memoryview(out).cast("B"))
    # As a grey picture of one row.
    tags = {256: size, 257: 1, 258: 8, 259: LZW, 262: 1, 277: 1, 278: 1}
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags |= {273: start, 279: len(data)}
    table = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    with opened(io.BytesIO(head + table + bytes(4) + data), "TIFF") as image:
        unpacked = image.tobytes()
    require(len(unpacked) == size, "damaged")
    return unpacked
