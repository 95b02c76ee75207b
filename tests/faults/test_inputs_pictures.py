"""Pictures that somebody made to break us: one sentence, in bounded time and memory."""

import functools
import io
import pathlib
import random
import runpy
import struct
import zlib

import numpy as np
import pytest
from fuzzing import cases, endure, measured_memory, mutated
from PIL import Image

from tpgdiff_jax.data.pictures import door, jxl, memory
from tpgdiff_jax.data.pictures.errors import UnreadableImageError

_ZOO = pathlib.Path(__file__).parents[1] / "data" / "pictures" / "zoo.py"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PLUGINS = {"heic": "pillow_heif", "jxl": "pillow_jxl"}
_KINDS = {
    **{"bmp": "BMP", "tga": "TGA", "ppm": "PPM", "webp": "WEBP", "avif": "AVIF"},
    **{"jp2": "JPEG2000", "heic": "HEIF", "jxl": "JXL", "gif": "GIF", "jpg": "JPEG"},
}
FORMATS = (*_KINDS, "png", "sound_png", "tif", "pgm")
_BOUND = 2**27  # bytes of memory that this machine says it has
_LITTLE = 48  # MiB that refusing may cost


@pytest.fixture
def small_machine(monkeypatch):
    """A machine of 128 MiB, of which a picture may take half."""
    monkeypatch.setattr(memory, "total", lambda: _BOUND)


def _encoded(image: Image.Image, suffix: str, **options) -> bytes:
    if suffix in _PLUGINS:
        plugin = pytest.importorskip(_PLUGINS[suffix])
        if suffix == "heic":
            plugin.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, _KINDS[suffix], **options)
    return buffer.getvalue()


@functools.cache
def _good(suffix: str) -> tuple[bytes, ...]:
    """Return small pictures of a kind, among them the zoo's awkward ones."""
    zoo = runpy.run_path(str(_ZOO))
    wanted = f".{suffix.removeprefix('sound_')}"
    found = [animal.data for animal in zoo["zoo"]() if animal.name.endswith(wanted)]
    if suffix in _KINDS:
        found.append(_encoded(Image.fromarray(zoo["U8"]), suffix))
    return tuple(found)


def _with_checksums(data: bytes) -> bytes:
    """Set the checksums of a PNG right, so that what is wrong with it reaches the decoder."""
    at, made = len(_SIGNATURE), bytearray(data)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        made[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(made)


@pytest.mark.usefixtures("small_machine")
@cases(40, 10_000)
@pytest.mark.parametrize("suffix", FORMATS)
def test_pictures_with_anything_done_to_their_bytes(suffix, cases, figure):
    good = _good(suffix)

    def attack(rng: random.Random) -> None:
        data = mutated(rng, good)
        data = _with_checksums(data) if suffix == "sound_png" else data
        name = f"a.{suffix}"
        size = door.read_size(data, name)
        shown = door.read_picture(data, name).rgb8()
        assert shown.dtype == np.uint8
        assert shown.shape == (*size, 3)

    figure(f"pictures, {suffix}: {endure(range(cases), attack, UnreadableImageError)}")


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize("suffix", _KINDS)
def test_a_picture_too_large_is_refused_before_it_is_unpacked(suffix):
    data = _encoded(Image.new("RGB", (1700, 1700), (90, 90, 90)), suffix)
    for read in (door.read_size, door.read_picture):
        with (
            measured_memory() as growth,
            pytest.raises(UnreadableImageError, match=r"1700x1700 .* more than half"),
        ):
            read(data, f"bomb.{suffix}")
        assert growth() < _LITTLE


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def _png(before: bytes, rows: bytes, side: int = 10) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return _SIGNATURE + header + before + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


@functools.cache
def _bomb() -> bytes:
    """Return 300 MiB of zeros, packed into 300 kB."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()


@pytest.mark.parametrize("kind", ["rows", "profile", "exif", "xmp", "all"])
def test_a_png_whose_parts_unpack_without_end_costs_little(kind):
    rows = zlib.compress(bytes(31 * 10))
    parts = {
        "profile": _chunk(b"iCCP", b"a\0\0" + _bomb()),
        "exif": _chunk(b"zTXt", b"Raw profile type exif\0\0" + _bomb()),
        "xmp": _chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _bomb()),
    }
    before = b"".join(parts.values()) if kind == "all" else parts.get(kind, b"")
    with measured_memory() as growth:
        picture = door.read_picture(_png(before, _bomb() if kind == "rows" else rows), "a.png")
    assert picture.pixels.shape == (10, 10, 3)
    assert picture.metadata.icc is None
    assert growth() < _LITTLE


def test_a_png_that_says_its_parts_are_huge_takes_no_memory_for_them(tmp_path):
    (tmp_path / "a.png").write_bytes(_SIGNATURE + b"\xff\xff\xff\xf0IHDR" + bytes(99))
    with measured_memory() as growth, pytest.raises(UnreadableImageError, match=r"a\.png: damaged"):
        door.read_picture(tmp_path / "a.png")
    assert growth() < _LITTLE


def _tiff(width: int, height: int, samples: int, data: bytes, tile: int = 0) -> bytes:
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: samples}
    data_tags = (324, 325) if tile else (273, 279)
    tags |= {322: tile, 323: tile} if tile else {278: height}
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags |= dict(zip(data_tags, (start, len(data)), strict=True))
    table = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return head + table + bytes(4) + data


@pytest.mark.usefixtures("small_machine")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_tiff(1000, 1000, 60_000, zlib.compress(bytes(99))), "1000x1000 pixels need .* of memory"),
        (_tiff(9, 9, 1, zlib.compress(bytes(99)), 2**17), "131072x131072 pixels need .* of memory"),
    ],
    ids=["channels", "tiles"],
)
def test_a_tiff_that_needs_more_than_its_size_tells_is_refused(data, reason):
    for read in (door.read_size, door.read_picture):
        with (
            measured_memory() as growth,
            pytest.raises(UnreadableImageError, match=rf"a\.tif: {reason}"),
        ):
            read(data, "a.tif")
        assert growth() < _LITTLE


def test_a_tiff_whose_strip_unpacks_without_end_costs_little():
    with measured_memory() as growth, pytest.raises(UnreadableImageError, match=r"a\.tif: damaged"):
        door.read_picture(_tiff(9, 9, 1, _bomb()), "a.tif")
    assert growth() < _LITTLE


def test_the_size_of_a_jpeg_xl_is_read_without_its_decoder():
    pytest.importorskip("pillow_jxl")
    rng = random.Random(0)
    sizes = [(8, 8), (120, 160), (1080, 1920), (1, 1), (300, 5)]
    sizes += [(rng.randint(1, 700), rng.randint(1, 700)) for _ in range(20)]
    for number, (height, width) in enumerate(sizes):
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        options = {"exif": exif.tobytes()} if number % 2 else {}  # a file of boxes, or bare
        data = _encoded(Image.new("RGB", (width, height)), "jxl", effort=1, **options)
        assert jxl.size_of(data) == (height, width)
