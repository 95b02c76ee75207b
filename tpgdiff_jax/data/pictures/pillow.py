"""Files and pictures of Pillow: everything but TIFF and PNG of 16 bit."""

import contextlib
import importlib
import io
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image

from tpgdiff_jax.data.pictures import jxl, memory
from tpgdiff_jax.data.pictures.metadata import Metadata, orientation_of, sound_dpi, sound_exif
from tpgdiff_jax.data.pictures.picture import checked_floats
from tpgdiff_jax.reporting.errors import UserError

# Kinds that Pillow reads with a package of their own -> (its module, how it is registered).
_EXTRAS = {"HEIF": ("pillow_heif", "register_heif_opener"), "JXL": ("pillow_jxl", "")}
_WORDS = {"HEIF": "a HEIC photo", "JXL": "a JPEG XL picture"}
_PACKAGES = {"HEIF": "pillow-heif", "JXL": "pillow-jxl-plugin"}
# Bytes that stand for any pixels, without the mark 255.
_FILLERS = [np.random.default_rng(i).integers(0, 255, 256, np.uint8).tobytes() for i in range(3)]
_PREVIEWS = ("MPO", "ICO", "ICNS", "PSD")  # whose further pictures are the same, or parts of it


class PillowFile:
    """An opened file of any of Pillow's kinds; see `picture.Stored`."""

    def __init__(self, file: BinaryIO, kind: str):
        self._file, self._kind = file, kind
        self._image = _open(file, kind)
        self.size = self._image.size[::-1]
        info = self._image.info
        # HEIF and JXL are turned by their decoders, and say so in their EXIF.
        self.orientation = orientation_of(info.get("exif"), _bytes(info.get("xmp")))

    def pixels(self) -> np.ndarray:
        """Decode the first frame."""
        try:
            self._image.load()
        except OSError as error:
            if self._kind != "JPEG" or "truncated" not in str(error):
                raise
            return _without_end_mark(self._file, error)
        return pixels_of(self._image)

    def frames(self) -> int:
        """Return how many frames there are; previews are none."""
        if self._image.format in _PREVIEWS:
            return 1
        return getattr(self._image, "n_frames", 1)

    def metadata(self) -> Metadata:
        """Return profile, EXIF, XMP and dpi."""
        return metadata_of(self._image)


@contextlib.contextmanager
def opened(file: BinaryIO, kind: str) -> Iterator[Image.Image]:
    """Open a file as one kind, and load it."""
    with _open(file, kind) as image:
        image.load()
        yield image


def metadata_of(image: Image.Image) -> Metadata:
    """Return what an opened picture says beside its pixels."""
    info = image.info
    return Metadata(
        info.get("icc_profile"),
        sound_exif(info.get("exif")),
        _bytes(info.get("xmp")),
        sound_dpi(info.get("dpi")),
    )


def pixels_of(image: Image.Image) -> np.ndarray:
    """Return a loaded picture's pixels, in one of the forms of `Picture.pixels`.

    Raises:
      UserError: numbers of which it is not known what is white.
    """
    mode = image.mode
    if mode == "F":
        return checked_floats(np.asarray(image))
    if mode.startswith("I"):
        return _deep_grey(image)
    # One grey level or colour may stand for "transparent", without an alpha channel.
    is_keyed = "transparency" in image.info
    if mode in ("1", "L", "LA", "La"):
        if is_keyed:
            return np.asarray(image.convert("RGBA"))[..., [0, 3]]
        return np.asarray(image.convert("LA" if mode in ("LA", "La") else "L"))
    has_alpha = is_keyed or mode in ("RGBA", "PA", "RGBa")
    wanted = "RGBA" if has_alpha else "RGB"
    return np.asarray(image if mode == wanted else image.convert(wanted))


def _without_end_mark(file: BinaryIO, error: OSError) -> np.ndarray:
    """Decode a JPEG that lacks its end mark alone; raise `error` where pixels are missing, too.

    Decoders make up what is missing.  Where nothing is, more data before the mark change nothing.
    """
    file.seek(0)
    data = file.read().rstrip(b"\xff")  # which would make a mark of what follows
    found = []
    for more in (b"", *_FILLERS):
        with opened(io.BytesIO(data + more + b"\xff\xd9"), "JPEG") as image:
            found.append(pixels_of(image))
    if any((pixels != found[0]).any() for pixels in found[1:]):
        raise error
    return found[0]


def _deep_grey(image: Image.Image) -> np.ndarray:
    grey = np.asarray(image)
    if grey.dtype != np.uint16:
        low, high = int(grey.min()), int(grey.max())
        if low < 0 or high > 65535:
            raise UserError(
                f"32-bit integers from {low} to {high}, so what is white is not known; save it "
                "with 16 bit"
            )
    grey = grey.astype(np.uint16)
    key = image.info.get("transparency")
    if not isinstance(key, int):
        return grey
    return np.stack([grey, np.where(grey == key, 0, 65535).astype(np.uint16)], axis=-1)


def _open(file: BinaryIO, kind: str) -> Image.Image:
    """Open a file as one kind.

    Not by Image.open, which limits the number of pixels: ours is by memory.
    """
    if kind in _EXTRAS:
        _register(kind)
    if kind not in Image.OPEN:
        Image.init()
    if kind not in Image.OPEN:
        raise UserError(f"a picture of kind {kind}, which this Pillow does not read")
    factory, _ = Image.OPEN[kind]
    file.seek(0)
    if kind == "JXL":  # opening it unpacks it
        memory.check(*jxl.size_of(file.read()))
        file.seek(0)
    try:
        return factory(file, "")
    except (SyntaxError, IndexError, TypeError, KeyError, ValueError) as error:
        # Among them is how plugins say "not mine".
        raise UserError(f"{_WORDS.get(kind, kind)}, damaged ({error})") from error


def _register(kind: str) -> None:
    module, function = _EXTRAS[kind]
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{_WORDS[kind]}, which needs a package to be read: pip install {_PACKAGES[kind]}, or "
            "convert it to JPEG or PNG"
        ) from error
    if function:
        getattr(found, function)()


def _bytes(xmp: object) -> bytes | None:
    return xmp.encode() if isinstance(xmp, str) else xmp if isinstance(xmp, bytes) else None
