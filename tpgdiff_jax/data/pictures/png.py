"""PNG files: chunks are sorted here, so that only those that make the pixels reach a decoder."""

import contextlib
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from tpgdiff_jax.data.pictures.metadata import Metadata, orientation_of, sound_dpi, sound_exif
from tpgdiff_jax.data.pictures.picture import require
from tpgdiff_jax.data.pictures.pillow import opened, pixels_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_TAIL_BYTES = 2**16  # so much of the end is searched for metadata when only the header is read
_MOST_METADATA = 2**24  # of one chunk, unpacked
_XMP_KEY = b"XML:com.adobe.xmp"
_RAW_EXIF_KEYS = (b"Raw profile type exif", b"Raw profile type APP1")
_METRE_IN_INCHES = 39.3701


class PngFile:
    """An opened PNG; see `picture.Stored`."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._chunks: dict[bytes, list[bytes]] = {}
        self._is_whole = False
        for kind, data in self._header_chunks():
            self._chunks.setdefault(kind, []).append(data)
        header = self._chunks.get(b"IHDR", [b""])[0]
        require(b"CgBI" not in self._chunks, "a PNG in Apple's own form (CgBI); convert it first")
        require(len(header) == 13, "damaged (no header)")
        width, height, self._bits, self._colour = struct.unpack(">IIBB", header[:10])
        require(width and height, "damaged (no pixels)")
        self.size = height, width
        self.orientation = orientation_of(self._exif(), self._xmp())

    def pixels(self) -> np.ndarray:
        """Decode the still picture; frames of an animation are other chunks."""
        clean = self._clean()
        if self._bits < 16:
            with opened(io.BytesIO(clean), "PNG") as image:
                return pixels_of(image)
        import imagecodecs  # takes a while to import, and few files need it

        pixels = imagecodecs.png_decode(clean)
        pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
        transparent = self._chunks.get(b"tRNS")
        if transparent and self._colour in (0, 2) and pixels.ndim == 2 + self._colour // 2:
            key = np.frombuffer(transparent[0], ">u2")
            colours = pixels.reshape(*pixels.shape[:2], -1)
            if len(key) == colours.shape[-1]:
                alpha = np.where((colours == key).all(-1, keepdims=True), 0, 65535)
                pixels = np.concatenate([colours, alpha.astype(np.uint16)], axis=-1)
        return pixels.astype(np.uint16)

    def frames(self) -> int:
        """Return how many frames an animated PNG has."""
        control = self._chunks.get(b"acTL", [b""])[0]
        return max(1, struct.unpack(">I", control[:4])[0]) if len(control) >= 4 else 1

    def metadata(self) -> Metadata:
        """Return profile, EXIF, XMP and dpi."""
        self._read_whole()
        profile = None
        for data in self._chunks.get(b"iCCP", []):
            _, _, packed = data.partition(b"\0")
            profile = _unpacked(packed[1:])
        dpi = None
        for data in self._chunks.get(b"pHYs", []):
            if len(data) == 9 and data[8] == 1:
                dpi = sound_dpi(
                    value / _METRE_IN_INCHES for value in struct.unpack(">II", data[:8])
                )
        return Metadata(profile, sound_exif(self._exif()), self._xmp(), dpi)

    def _exif(self) -> bytes | None:
        for data in self._chunks.get(b"eXIf", []):
            if sound_exif(data):
                return data
        for data in [*self._chunks.get(b"zTXt", []), *self._chunks.get(b"tEXt", [])]:
            key, _, text = data.partition(b"\0")
            if key in _RAW_EXIF_KEYS:  # ImageMagick's: name, length, and hexadecimal digits
                text = _unpacked(text[1:]) if data in self._chunks.get(b"zTXt", []) else text
                digits = re.sub(rb"\s", b"", (text or b"").strip().partition(b"\n")[2][8:])
                with contextlib.suppress(ValueError):
                    return bytes.fromhex(digits.decode("latin-1"))
        return None

    def _xmp(self) -> bytes | None:
        for data in self._chunks.get(b"iTXt", []):
            key, _, rest = data.partition(b"\0")
            if key == _XMP_KEY and len(rest) > 2:
                text = rest[2:].split(b"\0", 2)[-1]
                return _unpacked(text) if rest[0] else text
        return None

    def _header_chunks(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the chunks before the pixels, and those near the file's end that follow them."""
        self._file.seek(len(SIGNATURE))
        for kind, data, _ in _chunks_of(self._file):
            if kind == b"IDAT":
                break
            yield kind, data
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - _TAIL_BYTES))
        tail = self._file.read()
        for found in re.finditer(rb"eXIf|iTXt|zTXt|tEXt", tail):
            at = found.start()
            if at < 4:
                continue
            (length,) = struct.unpack(">I", tail[at - 4 : at])
            data, checksum = tail[at + 4 : at + 4 + length], tail[at + 4 + length :][:4]
            if len(checksum) == 4 and zlib.crc32(found[0] + data) == int.from_bytes(checksum):
                yield found[0], data

    def _read_whole(self) -> None:
        if self._is_whole:
            return
        self._is_whole = True
        self._file.seek(len(SIGNATURE))
        chunks: dict[bytes, list[bytes]] = {}
        self._is_cut = False
        self._pixel_chunks: list[bytes] = []
        for kind, data, checksum in _chunks_of(self._file):
            chunks.setdefault(kind, []).append(data)
            if self._few_greys(kind, data):
                # Pillow compares it with grey of 8 bit.
                most = 2**self._bits - 1
                grey = (int.from_bytes(data, "big") & most) * 255 // most
                self._pixel_chunks.append(chunk(kind, grey.to_bytes(2, "big")))
            elif kind in _PIXEL_CHUNKS:
                self._pixel_chunks += [struct.pack(">I4s", len(data), kind), data, checksum]
                self._is_cut |= len(checksum) < 4
        # What decides the orientation stays what the header's scan found.
        kept = {
            k: self._chunks[k] for k in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") if k in self._chunks
        }
        self._chunks = chunks | kept

    def _clean(self) -> bytes:
        """Return the file without what makes no pixels, and so can only mislead."""
        self._read_whole()
        require(b"IDAT" in self._chunks and not self._is_cut, "truncated")
        return b"".join([SIGNATURE, *self._pixel_chunks, chunk(b"IEND", b"")])

    def _few_greys(self, kind: bytes, data: bytes) -> bool:
        """Tell whether a chunk names the transparent grey of a picture of 2 or 4 bit."""
        return kind == b"tRNS" and self._colour == 0 and self._bits in (2, 4) and len(data) == 2


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _chunks_of(file: BinaryIO) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield (kind, content, checksum) up to IEND, or to where the file is no PNG.

    The checksum of a part that is cut off is shorter than 4 bytes.
    """
    here = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(here)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        length = min(length, size)  # memory is taken before it is seen that there is less
        if not kind.isalpha() or kind == b"IEND":
            return
        data = file.read(length)
        checksum = file.read(4)
        # Decoders look at the pixels' own.
        if kind in _PIXEL_CHUNKS and kind != b"IDAT" and len(checksum) == 4:
            sound = zlib.crc32(kind + data) == int.from_bytes(checksum)
            require(sound, f"damaged (wrong checksum of its {kind.decode()} part)")
        yield kind, data, checksum


def _unpacked(data: bytes) -> bytes | None:
    """Unpack deflated bytes; None where they are none, or too many."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, _MOST_METADATA)
    except zlib.error:
        return None
    return None if unpacker.unconsumed_tail else found
