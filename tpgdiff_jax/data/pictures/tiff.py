"""TIFF files: samples as tifffile hands them over, and what they mean, decided here."""

import collections
import itertools
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from tpgdiff_jax.data.pictures import lzw, memory
from tpgdiff_jax.data.pictures.metadata import Metadata, orientation_of, sound_dpi
from tpgdiff_jax.data.pictures.picture import (
    MOST_FRAMES,
    checked_floats,
    from_bits,
    require,
    turned,
)
from tpgdiff_jax.data.pictures.pillow import PillowFile
from tpgdiff_jax.reporting.errors import UserError

# PhotometricInterpretation: what the samples mean.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_CAMERA = (32803, 34892)  # CFA, LinearRaw
_LABS = (8, 9, 10)
_WORDS = {4: "a mask", 32844: "LogL", 32845: "LogLuv", **dict.fromkeys(_LABS, "CIE L*a*b*")}
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_JPEGS = (7, 33007, 34892)  # compressions whose decoder turns YCbCr into RGB
_PREMULTIPLIED, _ALPHA = 1, 2  # ExtraSamples
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_KINDS = {"u": "integers", "i": "signed integers", "f": "floats", "c": "complex numbers"}
_PER_INCH = {2: 1.0, 3: 2.54}  # ResolutionUnit -> times so many are dots per inch
# Tags that a photo's EXIF has, too: description, maker, model, program, date, artist, copyright.
TEXT_TAGS = (270, 271, 272, 305, 306, 315, 33432)
_MOST_PAGES = 4 * MOST_FRAMES  # that are looked at: each picture may have previews and masks
_MOST_LINES = 3  # of a kind that tifffile logs


class _Repetition(logging.Filter):
    """Drops what tifffile repeats: of a damaged file, lines for every tag of every page."""

    def __init__(self):
        super().__init__()
        self._seen = collections.Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.pathname, record.lineno
        self._seen[kind] += 1
        return self._seen[kind] <= _MOST_LINES


logging.getLogger("tifffile").addFilter(_Repetition())


class TiffFile:
    """An opened TIFF; see `picture.Stored`."""

    def __init__(self, file: BinaryIO):
        import tifffile  # takes a while to import, and few files need it

        file.seek(0)
        self._file = file
        self._tiff = tifffile.TiffFile(file, _multifile=False)
        self._page = self._main_page()
        page = self._page
        self.size = page.imagelength, page.imagewidth
        require(page.imagelength and page.imagewidth, "damaged (no pixels)")
        is_flat = getattr(page, "imagedepth", 1) == 1 and getattr(page, "tiledepth", 1) <= 1
        require(is_flat, "a TIFF of a volume, not of a picture")
        self._check_memory()
        value = self._value(274)
        is_sound = isinstance(value, int) and 1 <= value <= 8
        self.orientation = int(value) if is_sound else orientation_of(None, self._value(700))

    def pixels(self) -> np.ndarray:
        """Decode the first page."""
        page = self._page
        sense = int(page.photometric)
        if sense in _CAMERA:
            raise UserError("a raw photo (DNG or like it), which is not read; develop it first")
        is_ycc = sense == _YCBCR and int(page.compression) not in _JPEGS
        is_plain = int(page.compression) == 1 and self._bits() == 8 and page.samplesperpixel == 3
        if is_ycc and is_plain and self._value(530) == (1, 1):
            self._check_whole()
            return _from_ycc(self._samples())
        # Colours at half the size, CIE L*a*b* and the JPEG of old: libtiff, in Pillow, knows them.
        if is_ycc or int(page.compression) == 6 or (sense in _LABS and self._bits() == 8):
            return self._by_pillow()
        if sense not in _COLOURS:
            raise UserError(f"a TIFF of {_WORDS.get(sense, f'photometric kind {sense}')}, not read")
        colours = self._colours(sense)
        self._check_whole()
        stored = self._samples()
        if sense == _PALETTE:
            return self._from_palette(stored[..., 0])
        scaled = self._scaled(stored, sense)
        kinds = self._kinds()[colours - _COLOURS[sense] :]
        return self._with_alpha(scaled[..., :colours], scaled[..., colours:], kinds, sense)

    def frames(self) -> int:
        """Return the number of pages that are pictures of their own: no previews, no masks.

        Of very many not all are read, see `picture.MOST_FRAMES`.
        """
        pages = itertools.islice(self._pictures(), MOST_FRAMES + 1)
        return max(1, sum(1 for _ in pages))

    def metadata(self) -> Metadata:
        """Return profile, descriptive tags as EXIF, XMP and dpi."""
        exif = Image.Exif()
        for tag in TEXT_TAGS:
            text = self._value(tag)
            # Text that tifffile writes of itself tells nothing of the photo.
            own = text == "tifffile.py" or (tag == 270 and str(text).startswith('{"shape"'))
            if isinstance(text, str) and text and text.isprintable() and not own:
                exif[tag] = text.encode()  # Pillow writes a text itself as ASCII alone
        unit = _PER_INCH.get(self._value(296) or 2)
        dpi = None
        if unit:
            ratios = [self._value(282), self._value(283)]
            pairs = [r for r in ratios if isinstance(r, tuple) and len(r) == 2 and r[1]]
            dpi = sound_dpi(a / b * unit for a, b in pairs) if len(pairs) == 2 else None
            dpi = None if dpi == (1.0, 1.0) else dpi  # what programs write that know of none
        icc, xmp = self._value(34675), self._value(700)
        block = exif.tobytes()[6:] if len(exif) else None
        return Metadata(
            icc if isinstance(icc, bytes) else None,
            block,
            xmp if isinstance(xmp, bytes) else None,
            dpi,
        )

    def _main_page(self) -> Any:
        """Return the first page that is no preview."""
        require(bool(self._tiff.pages), "damaged (no pages)")  # a length would need all of them
        first = self._tiff.pages.first
        if 50706 in first.tags:
            raise UserError(
                "a raw photo (DNG), which is not read; develop it to TIFF or JPEG first"
            )
        if not int(first.subfiletype) & (_REDUCED | _MASK):
            return first
        if 330 in first.tags:
            raise UserError("a raw photo, which is not read; develop it to TIFF or JPEG first")
        return next(self._pictures(), first)

    def _pictures(self) -> Iterator[Any]:
        """Yield the first pages, without previews and masks."""
        for page in itertools.islice(self._tiff.pages, _MOST_PAGES):
            if not int(page.subfiletype) & (_REDUCED | _MASK):
                yield page

    def _value(self, tag: int) -> Any:
        found = self._page.tags.get(tag)
        return None if found is None else found.value

    def _bits(self) -> int:
        bits = self._page.bitspersample
        return max(bits) if isinstance(bits, tuple) else int(bits)

    def _colours(self, sense: int) -> int:
        """Return how many of the samples, the first ones, are the picture's colours."""
        samples, colours = self._page.samplesperpixel, _COLOURS[sense]
        require(samples >= colours, f"damaged ({samples} channels, {colours} are needed)")
        if sense not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
            return colours
        kinds = [*self._kinds(), *[0] * samples][: samples - 1]  # 0 where the file does not say
        unknown = [kind for kind in kinds if kind not in (_PREMULTIPLIED, _ALPHA)]
        if not unknown:
            return colours
        # So GDAL stores three bands of 16 bit, unless it is told that they are RGB.
        if sense == _BLACK_IS_ZERO and kinds[:2] == unknown == [0, 0]:
            return 3
        raise UserError(
            f"a TIFF of {colours + len(unknown)} channels of unknown meaning; save it as RGB"
        )

    def _kinds(self) -> list[int]:
        """Return what the samples are that come after those of the photometric kind."""
        return [int(kind) for kind in self._page.extrasamples]

    def _check_memory(self) -> None:
        """Raise where channels, or tiles larger than the picture, need more than there is."""
        bytes_per_pixel = self._page.samplesperpixel * -(-self._bits() // 8)
        memory.check(*self.size, bytes_per_pixel)
        if self._page.is_tiled:
            memory.check(self._page.tilelength, self._page.tilewidth, bytes_per_pixel)

    def _check_whole(self) -> None:
        """Raise where a part of the pixels lies beyond the file's end: tifffile fills it."""
        size = self._tiff.filehandle.size
        places = zip(self._page.dataoffsets, self._page.databytecounts, strict=False)
        for offset, count in places:
            require(offset > 0 and count > 0, "damaged (a part of the pixels is missing)")
            require(offset + count <= size, "truncated")

    def _samples(self) -> np.ndarray:
        """Return [H, W, samples], planes brought together."""
        page = self._page
        lzw.use_libtiff(page)
        stored = page.asarray()
        height, width = self.size
        # tifffile 2026.11 answers sample types that it does not know with an empty array.
        is_full = stored.size == height * width * page.samplesperpixel
        require(is_full, "damaged (a sample type that nothing reads)")
        is_apart = int(page.planarconfig) == 2 and page.samplesperpixel > 1
        shape = (page.samplesperpixel, height, width) if is_apart else (height, width, -1)
        stored = stored.reshape(shape)
        return np.moveaxis(stored, 0, -1) if is_apart else stored

    def _scaled(self, stored: np.ndarray, sense: int) -> np.ndarray:
        """Return uint8, uint16 or float32 samples; white is the largest."""
        kind, bits = stored.dtype.kind, self._bits()
        if kind == "f":
            scaled = checked_floats(stored, f"{8 * stored.dtype.itemsize}-bit floats")
        elif kind == "b":
            scaled = stored.astype(np.uint8) * 255
        elif kind == "u" and bits <= 32:
            scaled = from_bits(stored, bits)
        else:
            raise UserError(
                f"a TIFF of {bits}-bit {_KINDS.get(kind, kind)}, so what is white is not known; "
                "save it with 8 or 16 bit"
            )
        if sense == _WHITE_IS_ZERO:
            scaled = scaled.copy()
            scaled[..., 0] = _top(scaled) - scaled[..., 0]
        return scaled

    def _with_alpha(
        self, colours: np.ndarray, extras: np.ndarray, kinds: list[int], sense: int
    ) -> np.ndarray:
        """Bring CMYK to RGB, and add alpha where one of the further channels is that."""
        if sense == _CMYK:
            top = int(_top(colours))
            wide = (top - colours.astype(np.int64)) if top > 1 else (1 - colours)
            product = wide[..., :3] * wide[..., 3:]
            colours = np.round(product / top).astype(colours.dtype) if top > 1 else product
        alpha = next((i for i, kind in enumerate(kinds) if kind in (_PREMULTIPLIED, _ALPHA)), None)
        # Programs that store RGB and one more channel of unknown kind mean alpha by it.
        if alpha is None and kinds == [0] and sense == _RGB:
            alpha = 0
        if alpha is None or alpha >= extras.shape[-1]:
            return colours[..., 0] if colours.shape[-1] == 1 else colours
        veil = extras[..., alpha : alpha + 1]
        if kinds[alpha] == _PREMULTIPLIED:
            colours = _divided(colours, veil)
        return np.concatenate([colours, veil], axis=-1)

    def _from_palette(self, numbers: np.ndarray) -> np.ndarray:
        table = np.asarray(self._page.colormap)  # uint16 [3, colours]
        require(
            int(numbers.max()) < table.shape[1], "damaged (a colour that is not in its palette)"
        )
        # Some programs store 8-bit values there.
        table = table if table.max() < 256 else table // 257
        return table.T.astype(np.uint8)[numbers]

    def _by_pillow(self) -> np.ndarray:
        require(self._page is self._tiff.pages.first, "a TIFF whose second page is the picture")
        self._file.seek(0)
        image = PillowFile(self._file, "TIFF")
        # Pillow has the size already turned, and turns the pixels when it loads them.
        raw = image.pixels()
        return _back(raw, self.orientation, self.size)


def _from_ycc(samples: np.ndarray) -> np.ndarray:
    """Return RGB of 8-bit YCbCr (ITU-R BT.601, full range)."""
    size = samples.shape[1], samples.shape[0]
    return np.asarray(Image.frombytes("YCbCr", size, samples.tobytes()).convert("RGB"))


def _top(samples: np.ndarray) -> Any:
    """Return what white is, in the samples' own type."""
    return samples.dtype.type(1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max)


def _divided(colours: np.ndarray, veil: np.ndarray) -> np.ndarray:
    """Divide colours by the alpha they were multiplied with."""
    top = float(_top(colours))
    whole = colours.astype(np.float64) * top / np.maximum(veil, np.finfo(np.float32).tiny)
    whole = np.where(veil > 0, np.clip(whole, 0, top), 0)
    return (whole if top == 1 else np.round(whole)).astype(colours.dtype)


def _back(pixels: np.ndarray, orientation: int, size: tuple[int, int]) -> np.ndarray:
    """Undo a turn that Pillow has made, so that all files are turned in one place."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    back = turned(pixels, inverse)
    require(back.shape[:2] == size, "damaged (another size than its header says)")
    return back
