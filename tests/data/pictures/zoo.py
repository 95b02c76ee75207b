"""Awkward pictures, each with what it shows: from its making, never from the code under test."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageCms, ImageOps

HEIGHT, WIDTH = 24, 36
_DOWN, _ACROSS = np.mgrid[0:1:24j, 0:1:36j]
RGB = np.stack([_ACROSS, _DOWN, 0.3 + 0.4 * _ACROSS * _DOWN], -1)
RGB[:6, :9] = (0.9, 0.1, 0.1)  # no two turns look alike
U8, U16 = np.round(RGB * 255).astype(np.uint8), np.round(RGB * 65535).astype(np.uint16)
GREY = RGB.mean(-1)
G8, G16 = np.round(GREY * 255).astype(np.uint8), np.round(GREY * 65535).astype(np.uint16)
_EXACT, _LOSSY = 0.6 / 255, 12 / 255


class Animal(NamedTuple):
    """One file.

    Attributes:
      name: of the file.
      data: its content.
      shows: float [H, W, 3] in [0, 1], upright; None where it is to be refused.
      tolerance: largest mean difference.
      refused: what the refusal's sentence says.
      frames: how many it holds.
    """

    name: str
    data: bytes
    shows: np.ndarray | None
    tolerance: float = _EXACT
    refused: str = ""
    frames: int = 1


def zoo() -> Iterator[Animal]:
    """Yield every picture."""
    yield from _tiffs()
    yield from _tiffs_of_unknown_channels()
    yield from _pngs()
    yield from _jpegs()
    yield from _others()
    yield from _no_pictures()


def _grey3(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, -1)


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn as Pillow does, channel by channel."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    channels = []
    for channel in np.moveaxis(image, -1, 0):
        picture = Image.fromarray(channel.astype(np.float32))
        picture.getexif()[0x0112] = orientation
        channels.append(np.asarray(ImageOps.exif_transpose(picture)))
    return np.stack(channels, -1)


def _tiff(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def _tiffs() -> Iterator[Animal]:
    rgb, grey = {"photometric": "rgb"}, {"photometric": "minisblack"}
    alpha = np.full((HEIGHT, WIDTH, 1), 200, np.uint8)
    for orientation in range(1, 9):
        tag = {"extratags": [(274, "H", 1, orientation, True)], "metadata": None}
        for depth, pixels in (("flat", U8), ("deep", U16)):
            data = _tiff(pixels, **rgb, **tag)
            yield Animal(f"{depth}_{orientation}.tif", data, _turned(RGB, orientation))
    for depth, pixels in (("8", U8), ("16", U16)):
        planes = np.moveaxis(pixels, -1, 0).copy()
        forms = {
            "planes": (planes, {"planarconfig": "separate"}),
            "planes_lzw": (planes, {"planarconfig": "separate", "compression": "lzw"}),
            "big_end": (pixels, {"byteorder": ">"}),
            "lzw_predictor": (pixels, {"compression": "lzw", "predictor": True}),
            "deflate": (pixels, {"compression": "zlib"}),
            "zstd": (pixels, {"compression": "zstd"}),
            "tiles": (pixels, {"tile": (16, 16)}),
            "bigtiff": (pixels, {"bigtiff": True}),
        }
        for form, (stored, options) in forms.items():
            yield Animal(f"rgb{depth}_{form}.tif", _tiff(stored, **rgb, **options), RGB)
        inverted = np.iinfo(pixels.dtype).max - pixels
        key = np.zeros_like(pixels[..., :1])
        cmyk = _tiff(np.concatenate([inverted, key], -1), photometric="separated")
        yield Animal(f"cmyk{depth}.tif", cmyk, RGB)
        white = np.iinfo(pixels.dtype).max - (G8 if depth == "8" else G16)
        yield Animal(
            f"white_is_zero{depth}.tif", _tiff(white, photometric="miniswhite"), _grey3(GREY)
        )
    veiled = np.dstack([U8, alpha])
    yield Animal("rgba.tif", _tiff(veiled, **rgb, extrasamples=["unassalpha"]), RGB)
    multiplied = np.dstack([np.round(U8 * (200 / 255)).astype(np.uint8), alpha])
    yield Animal(
        "multiplied_alpha.tif",
        _tiff(multiplied, **rgb, extrasamples=["assocalpha"]),
        RGB,
        1.2 / 255,
    )
    five = np.dstack([U8, U8[..., :2]])
    yield Animal("five_channels.tif", _tiff(five, **rgb), RGB)
    yield Animal("two_pages.tif", _tiff(np.stack([U8, 255 - U8]), **rgb), RGB, frames=2)
    half, single = RGB.astype(np.float16), RGB.astype(np.float32)
    yield Animal("rgb_half.tif", _tiff(half, **rgb), RGB, 1 / 255)
    yield Animal("rgb_float.tif", _tiff(single, **rgb, compression="zlib", predictor=3), RGB)
    yield Animal("grey_float.tif", _tiff(GREY.astype(np.float32), **grey), _grey3(GREY))
    yield Animal("grey32.tif", _tiff(G16.astype(np.uint32) * 65537, **grey), _grey3(GREY))
    yield Animal("palette.tif", _palette_tiff(), _grey3(GREY))
    yield Animal("jpeg.tif", _tiff(U8, **rgb, compression="jpeg"), RGB, _LOSSY)
    yield Animal("LAB.tif", _lab_or_ycc("LAB"), RGB, _LOSSY)
    yield Animal("YCbCr.tif", _lab_or_ycc("YCbCr"), RGB, _LOSSY)
    refusals = {
        "float_255": (
            GREY.astype(np.float32) * 255,
            "32-bit floats from .* to .*, expected 0 to 1",
        ),
        "float_nan": (np.full((HEIGHT, WIDTH), np.nan, np.float32), "32-bit floats .*not finite"),
        "signed16": ((G16 // 2).astype(np.int16), "16-bit signed integers"),
        "signed32": (G16.astype(np.int32), "32-bit signed integers"),
        "small32": (G8.astype(np.uint32), "32-bit integers up to"),
        "double": (np.full((HEIGHT, WIDTH), 7.0), "64-bit floats"),
        "complex": (G8.astype(np.complex64), "complex numbers"),
    }
    for name, (pixels, reason) in refusals.items():
        yield Animal(f"{name}.tif", _tiff(pixels, **grey), None, refused=reason)
    raw = [(50706, "B", 4, b"\1\4\0\0", True)]
    yield Animal("photo.dng", _tiff(U8, **rgb, extratags=raw), None, refused="a raw photo")
    yield Animal("cut.tif", _tiff(U16, **rgb)[:-900], None, refused="truncated|damaged")


def _tiffs_of_unknown_channels() -> Iterator[Animal]:
    """Yield what GDAL makes of bands of 16 bit: grey, and more that is not told."""
    veil = np.full((HEIGHT, WIDTH, 1), 51400, np.uint16)
    options = {"photometric": "minisblack", "planarconfig": "contig"}
    for name, pixels, kinds, shows in (
        ("gdal", U16, [0, 0], RGB),
        ("gdal_alpha", np.dstack([U16, veil]), [0, 0, 2], RGB),
        ("grey_alpha", np.dstack([G16, veil]), [2], _grey3(GREY)),
    ):
        yield Animal(f"{name}.tif", _tiff(pixels, extrasamples=kinds, **options), shows)
    for count in (2, 4, 5):
        data = _tiff(np.zeros((HEIGHT, WIDTH, count), np.uint16), **options)
        reason = f"a TIFF of {count} channels of unknown meaning; save it as RGB"
        yield Animal(f"bands{count}.tif", data, None, refused=reason)


def _palette_tiff() -> bytes:
    table = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    return _tiff(G8, photometric="palette", colormap=table)


def _lab_or_ycc(mode: str) -> bytes:
    picture = Image.fromarray(U8)
    if mode == "LAB":
        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        picture = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    else:
        picture = picture.convert(mode)
    return _saved(picture, "TIFF")


def _saved(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes, harm: int = 0) -> bytes:
    checksum = zlib.crc32(kind + data) ^ harm
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png(pixels: np.ndarray, colour: int, before: bytes = b"", after: bytes = b"") -> bytes:
    bits = 8 * pixels.dtype.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in pixels)
    size = (pixels.shape[1], pixels.shape[0])
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    body = before + _chunk(b"IDAT", zlib.compress(rows)) + after + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def _exif(orientation: int) -> bytes:
    return b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([orientation]) + b"\0" * 7


def _pngs() -> Iterator[Animal]:
    late = np.random.default_rng(0).integers(0, 256, 40_000, np.uint8).tobytes()
    for orientation in (3, 6, 7):
        block = _chunk(b"eXIf", _exif(orientation))
        shows = _turned(RGB, orientation)
        yield Animal(f"exif_{orientation}.png", _png(U8, 2, block), shows)
        yield Animal(f"exif_late_{orientation}.png", _png(U8, 2, b"", block), shows)
        far = block + _chunk(b"prVt", late)
        yield Animal(f"exif_deep_late_{orientation}.png", _png(U16, 2, b"", far), shows)
    text = _chunk(b"tEXt", b"key\0value", harm=1)
    long = _chunk(b"zTXt", b"key\0\0" + zlib.compress(b"a" * (3 << 20)))
    broken = {
        "text_checksum": text,
        "long_text": long,
        "no_exif": _chunk(b"eXIf", b"\0\x08\0\2\1\x12"),
        "no_profile": _chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile")),
        "profile_not_packed": _chunk(b"iCCP", b"x\0\0no deflate"),
        "short_gamma": _chunk(b"gAMA", b"\0"),
        "short_dpi": _chunk(b"pHYs", b"\0\0"),
    }
    for name, block in broken.items():
        yield Animal(f"{name}.png", _png(U8, 2, block), RGB)
        yield Animal(f"{name}_deep.png", _png(U16, 2, block), RGB)
    yield Animal("deep.png", _png(U16, 2), RGB)
    yield Animal("deep_grey.png", _png(G16, 0), _grey3(GREY))
    veil8, veil16 = np.full_like(G8, 200), np.full_like(G16, 20_000)
    yield Animal("grey_alpha.png", _png(np.dstack([G8, veil8]), 4), _grey3(GREY))
    yield Animal("deep_grey_alpha.png", _png(np.dstack([G16, veil16]), 4), _grey3(GREY))
    yield Animal("deep_alpha.png", _png(np.dstack([U16, veil16]), 6), RGB)
    key = _chunk(b"tRNS", struct.pack(">HHH", *U16[3, 3]))
    yield Animal("deep_one_colour_clear.png", _png(U16, 2, key), RGB)
    key = _chunk(b"tRNS", struct.pack(">H", int(G8[3, 3])))
    yield Animal("grey_one_level_clear.png", _png(G8, 0, key), _grey3(GREY))
    few = Image.fromarray(U8).quantize(32)
    shows = np.asarray(few.convert("RGB")) / 255
    yield Animal("palette.png", _saved(few, "PNG"), shows)
    yield Animal("palette_clear.png", _saved(few, "PNG", transparency=bytes(range(32))), shows)
    frames = [Image.fromarray(255 - U8)]
    moving = _saved(Image.fromarray(U8), "PNG", save_all=True, append_images=frames)
    yield Animal("moving.png", moving, RGB, frames=2)
    yield Animal("cut.png", _png(U8, 2)[:600], None, refused="truncated|damaged")
    yield Animal("cut_deep.png", _png(U16, 2)[:900], None, refused="truncated|damaged")


def _jpegs() -> Iterator[Animal]:
    plain = _saved(Image.fromarray(U8), "JPEG", quality=95)

    def with_block(data: bytes) -> bytes:
        return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data + plain[2:]

    blocks = {
        "exif_blank": b"Exif\0\0",
        "exif_garbage": b"Exif\0\0" + b"\x12\x34\x56\x78" * 5,
        "exif_out_of_range": b"Exif\0\0II*\0\xff\xff\0\0\x01\0",
        "exif_0": b"Exif\0\0" + _exif(0),
        "exif_9": b"Exif\0\0" + _exif(9),
    }
    for name, block in blocks.items():
        yield Animal(f"{name}.jpg", with_block(block), RGB, _LOSSY)
    turned = with_block(b"Exif\0\0" + _exif(6))
    yield Animal("turned.jpg", turned, _turned(RGB, 6), _LOSSY)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    yield Animal("turned_by_xmp.jpg", with_block(xmp), _turned(RGB, 6), _LOSSY)
    yield Animal("more_behind.jpg", plain + b"\0" * 999 + b"garbage", RGB, _LOSSY)
    yield Animal("photo.jfif", plain, RGB, _LOSSY)
    yield Animal("photo.jpe", plain, RGB, _LOSSY)
    cmyk = Image.fromarray(U8).convert("CMYK")
    yield Animal("cmyk.jpg", _saved(cmyk, "JPEG", quality=95), RGB, _LOSSY)
    preview = [Image.fromarray(U8).resize((9, 6))]
    two = _saved(Image.fromarray(U8), "MPO", save_all=True, append_images=preview)
    yield Animal("with_preview.jpg", two, RGB, _LOSSY)
    yield Animal("no_end_mark.jpg", plain[:-2], RGB, _LOSSY)
    slow = _saved(Image.fromarray(U8), "JPEG", quality=95, progressive=True)
    yield Animal("progressive.jpg", slow, RGB, _LOSSY)
    yield Animal("progressive_no_end_mark.jpg", slow[:-2], RGB, _LOSSY)
    for cut in (3, 8, 40):
        yield Animal(f"cut_{cut}.jpg", plain[:-cut], None, refused="truncated")
        yield Animal(f"progressive_cut_{cut}.jpg", slow[:-cut], None, refused="truncated|damaged")
    yield Animal("cut.jpg", plain[: len(plain) * 2 // 3], None, refused="truncated")


def _others() -> Iterator[Animal]:
    picture = Image.fromarray(U8)
    for name, kind, tolerance in (
        ("photo.bmp", "BMP", _EXACT),
        ("photo.ppm", "PPM", _EXACT),
        ("photo.tga", "TGA", _EXACT),
        ("photo.gif", "GIF", _LOSSY),
        ("photo.avif", "AVIF", _LOSSY),
        ("photo.jp2", "JPEG2000", _EXACT),
        ("avif_named.jpg", "AVIF", _LOSSY),
        ("gif_named.png", "GIF", _LOSSY),
        ("bmp_named.tif", "BMP", _EXACT),
    ):
        yield Animal(name, _saved(picture, kind), RGB, tolerance)
    lossless = {"lossless": True, "save_all": True, "append_images": [Image.fromarray(255 - U8)]}
    yield Animal("moving.webp", _saved(picture, "WEBP", **lossless), RGB, frames=2)
    moving = {"save_all": True, "append_images": [Image.fromarray(255 - U8)]}
    yield Animal("moving.gif", _saved(picture, "GIF", **moving), RGB, _LOSSY, frames=2)
    deep = b"P5\n36 24\n65535\n" + G16.astype(">u2").tobytes()
    yield Animal("deep.pgm", deep, _grey3(GREY))


def _no_pictures() -> Iterator[Animal]:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name, data, reason in (
        ("pointer.png", pointer, "git-lfs pointer.*git lfs pull"),
        ("page.jpg", b"\n<!DOCTYPE html><html><body>404</body></html>", "web page"),
        ("weights.png", b"PK\3\4" + b"\0" * 26 + b"archive/data.pkl", "--mode=convert"),
        ("old_weights.png", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "--mode=convert"),
        ("drawing.png", b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "SVG drawing"),
        ("archive.png", b"PK\3\4" + b"\0" * 40, "archive"),
        ("empty.png", b"", r"empty file \(0 bytes\)"),
        ("zeros.jpg", bytes(999), "nothing but zeros"),
        ("text.png", b"no picture at all", "not an image"),
        ("canon.cr2", b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 99, "raw photo"),
        ("light.exr", b"\x76\x2f\x31\x01" + b"\0" * 99, "OpenEXR"),
        ("document.png", b"%PDF-1.7", "PDF"),
    ):
        yield Animal(name, data, None, refused=reason)
