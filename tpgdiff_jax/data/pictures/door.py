"""Open any picture: the only place where files are read as pictures."""

import contextlib
import io
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from absl import logging
from PIL import Image

from tpgdiff_jax.data.pictures import memory
from tpgdiff_jax.data.pictures.errors import UnreadableImageError, as_unreadable
from tpgdiff_jax.data.pictures.kinds import kind_of
from tpgdiff_jax.data.pictures.metadata import ORIENTATION
from tpgdiff_jax.data.pictures.picture import MOST_FRAMES, Picture, Stored, require, turned
from tpgdiff_jax.data.pictures.pillow import PillowFile, metadata_of, pixels_of
from tpgdiff_jax.data.pictures.png import PngFile
from tpgdiff_jax.data.pictures.tiff import TiffFile
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable
from tpgdiff_jax.reporting.foreign import HEAD_BYTES
from tpgdiff_jax.stores.urls import file_system, is_url, key_of, named, normal, reaching

_HEADER_BYTES = 2**17  # of a picture in a store, asked for at once
_MARKED_BYTES = 2**16  # of each part of a file that tells it from others


def read_picture(
    source: str | os.PathLike | bytes, name: str = "", *, marked: bool = False
) -> Picture:
    """Read a picture of any kind, upright; its content decides, not its name.

    Args:
      source: a file's path or content.
      name: what errors call it; the path by default.
      marked: also tell the content apart, see `Picture.mark`.

    Raises:
      UnreadableImageError: empty, no picture, truncated, damaged, too large, of a kind that is not
        read; says which, and the way out.
      OSError: what is wrong with the machine.
    """
    name = name or _name_of(source)
    with _stored(source, name) as (file, stream):
        pixels = file.pixels()
        # Of a header that lies, memory was not checked either.
        require(pixels.shape[:2] == file.size, "damaged (another size than its header says)")
        pixels = turned(pixels, file.orientation)
        frames = file.frames()
        metadata = file.metadata().upright(file.orientation >= 5)
        mark = _mark(stream) if marked else ""
    if frames > 1:
        count = frames if frames <= MOST_FRAMES else f"more than {MOST_FRAMES}"
        logging.info("%s: frame 1 of %s is read.", printable(name), count)
    return Picture(pixels, frames, metadata, mark)


def read_size(source: str | os.PathLike | bytes, name: str = "") -> tuple[int, int]:
    """Return (height, width) as `read_picture` would, from the header; decodes no pixels.

    Args:
      source: a file's path or content.
      name: what errors call it; the path by default.

    Raises:
      UnreadableImageError: as far as the header tells; damage behind it is found when it is read.
    """
    with _stored(source, name or _name_of(source), whole=False) as (file, _):
        height, width = file.size
        return (width, height) if file.orientation >= 5 else (height, width)


def content_mark(source: str | os.PathLike | bytes) -> str:
    """Return what tells a file's content from others': its length, and a checksum of three parts.

    Start, middle and end are read, so that a large file takes no longer than a small one.

    Args:
      source: a file's path or content.

    Raises:
      OSError: it cannot be read.
      UserError: it is no file.
    """
    with _opened(source, whole=False) as file:
        return _mark(file)


def _mark(file: BinaryIO) -> str:
    length, checksum = file.seek(0, os.SEEK_END), 0
    last = max(0, length - _MARKED_BYTES)
    for start in (0, last // 2, last):
        file.seek(start)
        checksum = zlib.crc32(file.read(_MARKED_BYTES), checksum)
    return f"{length}-{checksum:08x}"


def of_pillow(image: Image.Image) -> Picture:
    """Take a picture that Pillow has opened, or that a program made, as if it came from a file."""
    image.load()  # a TIFF is turned by this, and says so afterwards
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # whatever a broken block makes Pillow raise: it gives none then
        value = None
    orientation = value if isinstance(value, int) and 1 <= value <= 8 else 1
    metadata = metadata_of(image).upright(orientation >= 5)
    return Picture(turned(pixels_of(image), orientation), 1, metadata)


def _name_of(source: str | os.PathLike | bytes) -> str:
    return "a picture in memory" if isinstance(source, bytes) else named(source)


@contextlib.contextmanager
def _stored(
    source: str | os.PathLike | bytes, name: str, *, whole: bool = True
) -> Iterator[tuple[Stored, BinaryIO]]:
    """Open a picture, and its file; whatever goes wrong before the block ends is one exception."""
    try:
        with _opened(source, whole) as file:
            head = file.read(HEAD_BYTES)
            kind = kind_of(head, name)
            stored = {"PNG": PngFile, "TIFF": TiffFile}.get(kind, lambda f: PillowFile(f, kind))(
                file
            )
            memory.check(*stored.size)
            yield stored, file
    except (MemoryError, UnreadableImageError):
        raise
    except Exception as error:  # damaged files make decoders raise anything
        raise as_unreadable(error, name) from error


def _opened(source: str | os.PathLike | bytes, whole: bool) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if is_url(source):
        with reaching(normal(source)):
            if whole:
                return io.BytesIO(file_system(source).cat_file(key_of(source)))
            # Small requests: a header is a few of them.
            return file_system(source).open(key_of(source), "rb", block_size=_HEADER_BYTES)
    if os.path.isdir(source):
        os.scandir(source).close()  # raises where it may not be read
        raise IsADirectoryError(source)
    if not os.path.isfile(source) and os.path.exists(source):
        raise UserError("neither a file nor a folder: a pipe, a socket or a device")
    return open(source, "rb")
