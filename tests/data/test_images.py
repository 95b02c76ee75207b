"""Reading any kind of image file as 8-bit RGB, and writing without half-written files."""

import contextlib
import errno
import math
import os
import pickle
import resource
import struct
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from tpgdiff_jax.data.images import encode_png, read_rgb, write_image
from tpgdiff_jax.data.pictures import door, memory
from tpgdiff_jax.data.pictures.door import read_picture, read_size
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.reporting.files import printable

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (20, 30, 3)).astype(np.uint16)


def _png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """Put together a PNG file of a kind that Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_round_trip_and_no_temporary_file_left(tmp_path):
    path = tmp_path / "new" / "photo.png"
    write_image(path, RGB)
    np.testing.assert_array_equal(read_rgb(path), RGB)
    assert [p.name for p in path.parent.iterdir()] == ["photo.png"]
    assert read_size(path) == (20, 30)


def test_two_programs_may_write_one_file_at_once(tmp_path, monkeypatch):
    """The second begins and ends while the first has written but not yet renamed."""
    path, real, seen = tmp_path / "photo.png", os.replace, []

    def replace(source, target):
        seen.append(source)
        if len(seen) == 1:
            write_image(path, 255 - RGB)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_image(path, RGB)
    assert len(set(seen)) == 2
    np.testing.assert_array_equal(read_rgb(path), RGB)


def test_an_image_that_does_not_fit_on_the_disk_is_not_there(tmp_path):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_image(tmp_path / "photo.jpg", RGB)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"'\.psd' is no image format"):
        write_image(tmp_path / "photo.psd", RGB)


def test_memory_and_file_give_the_same(tmp_path):
    (tmp_path / "photo.png").write_bytes(encode_png(RGB))
    np.testing.assert_array_equal(read_rgb(encode_png(RGB), "photo"), RGB)
    np.testing.assert_array_equal(read_rgb(tmp_path / "photo.png"), RGB)


def test_grey_is_repeated(tmp_path):
    Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), RGB[..., :1].repeat(3, -1))


def test_black_and_white(tmp_path):
    Image.fromarray(RGB[..., 0]).convert("1").save(tmp_path / "two.png")
    assert set(np.unique(read_rgb(tmp_path / "two.png"))) == {0, 255}


@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_dropped(tmp_path, channels):
    alpha = np.full((20, 30, 1), 77, np.uint8)
    image = np.concatenate([RGB[..., :channels], alpha], -1)  # LA or RGBA
    Image.fromarray(image).save(tmp_path / "alpha.png")
    expected = np.broadcast_to(RGB[..., :channels], RGB.shape)
    np.testing.assert_array_equal(read_rgb(tmp_path / "alpha.png"), expected)


@pytest.mark.parametrize("transparency", [None, 5, bytes([0, 128, *[255] * 14])])
def test_palette_with_and_without_transparency(tmp_path, transparency):
    palette = Image.fromarray(RGB).quantize(16)
    options = {} if transparency is None else {"transparency": transparency}
    palette.save(tmp_path / "palette.png", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns when alpha is dropped the wrong way
        image = read_rgb(tmp_path / "palette.png")
    np.testing.assert_array_equal(image, np.asarray(palette.convert("RGB")))


def test_cmyk(tmp_path):
    cmyk = Image.fromarray(RGB).convert("CMYK")
    cmyk.save(tmp_path / "cmyk.tif")
    np.testing.assert_array_equal(read_rgb(tmp_path / "cmyk.tif"), RGB)
    cmyk.resize((240, 160)).save(tmp_path / "cmyk.jpg", quality=100)
    smooth = np.asarray(cmyk.resize((240, 160)).convert("RGB")).astype(float)
    assert np.abs(read_rgb(tmp_path / "cmyk.jpg") - smooth).mean() < 3  # not inverted


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    tifffile.imwrite(tmp_path / "little.tif", deep)
    tifffile.imwrite(tmp_path / "big.tif", deep, byteorder=">")
    for name in ("deep.png", "little.tif", "big.tif"):
        grey = read_rgb(tmp_path / name)
        assert grey.shape == (20, 30, 3)
        np.testing.assert_allclose(grey[..., 0], deep / 257, atol=0.51)


def test_sixteen_bit_colour_is_rounded(tmp_path):
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in DEEP)
    (tmp_path / "deep.png").write_bytes(_png(30, 20, 16, 2, rows))
    tifffile.imwrite(tmp_path / "deep.tif", DEEP, photometric="rgb")
    for name in ("deep.png", "deep.tif"):
        np.testing.assert_array_equal(read_rgb(tmp_path / name), np.round(DEEP / 257))


def test_float_grey_is_scaled_and_other_ranges_refused(tmp_path):
    grey = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    tifffile.imwrite(tmp_path / "float.tif", grey)
    np.testing.assert_allclose(read_rgb(tmp_path / "float.tif")[..., 0], grey * 255, atol=0.51)
    for name, bad in {"range.tif": grey * 255, "nan.tif": grey * np.nan}.items():
        tifffile.imwrite(tmp_path / name, bad)
        with pytest.raises(UnreadableImageError, match=rf"{name}: 32-bit floats .*expected 0 to 1"):
            read_rgb(tmp_path / name)


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    assert read_size(tmp_path / "turned.png") == (30, 20)
    np.testing.assert_array_equal(read_rgb(tmp_path / "turned.png"), np.rot90(RGB, -1))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for name, options in (("moving.webp", {"lossless": True}), ("moving.png", {})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(read_rgb(tmp_path / name), RGB)


def test_content_decides_not_the_extension(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "really.bmp")
    os.replace(tmp_path / "really.bmp", tmp_path / "really.jpg")
    np.testing.assert_array_equal(read_rgb(tmp_path / "really.jpg"), RGB)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("text", "not an image, whatever its name says"),
        ("empty", "empty file (0 bytes)"),
        ("truncated", "truncated"),
        ("missing", "no such file"),
        ("folder", "a folder, no image"),
    ],
)
def test_unreadable_files_are_named_with_a_plain_reason(tmp_path, kind, reason):
    path = tmp_path / "bad.png"
    data = {"text": b"no image at all", "empty": b"", "truncated": encode_png(RGB)[:300]}
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(data[kind])
    with pytest.raises(UnreadableImageError) as error:
        read_rgb(path)
    assert (error.value.file, error.value.reason) == (str(path), reason)
    assert str(pickle.loads(pickle.dumps(error.value))) == f"{path}: {reason}"


def test_truncated_jpeg(tmp_path):
    path = tmp_path / "bad.jpg"
    Image.fromarray(RGB).resize((300, 200)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert read_size(path) == (200, 300)
    with pytest.raises(UnreadableImageError, match=r"bad\.jpg: truncated"):
        read_rgb(path)


@pytest.mark.parametrize("read", [read_size, read_rgb])
def test_the_machines_memory_limits_the_size(tmp_path, read):
    rows = zlib.compress(b"")  # the header alone must do
    side = math.isqrt(memory.total() // 2 // memory.BYTES_PER_PIXEL) + 1
    (tmp_path / "bomb.png").write_bytes(_png(side, side, 8, 2, rows))
    with pytest.raises(
        UnreadableImageError, match=r"bomb\.png: .* need .* GiB of memory, more than half"
    ):
        read(tmp_path / "bomb.png")


def test_photos_of_more_pixels_than_pillow_allows_are_read(tmp_path):
    """Phones take 200 megapixels; Pillow warns above 89, and refuses above 179."""
    large = np.zeros((10_000, 20_000), bool)
    large[-1, -1] = True
    tifffile.imwrite(tmp_path / "large.tif", large, photometric="minisblack")
    Image.fromarray(large).save(tmp_path / "large.png")
    for name in ("large.tif", "large.png"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert read_size(tmp_path / name) == large.shape
            picture = read_picture(tmp_path / name)
        assert picture.pixels[-1, -1] == 255
        assert not picture.pixels[:, :-1].any()


def test_damaged_bytes_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    for name, options in (("a.png", {}), ("a.jpg", {}), ("a.tif", {"compression": "tiff_lzw"})):
        Image.fromarray(RGB).save(tmp_path / name, **options)
        good = (tmp_path / name).read_bytes()
        for _ in range(60):
            bad = bytearray(good)
            for position in rng.integers(0, len(bad), 5):
                bad[position] = rng.integers(256)
            with (
                warnings.catch_warnings(action="ignore"),
                contextlib.suppress(UnreadableImageError),
            ):
                image = read_rgb(bytes(bad), name)
                assert image.dtype == np.uint8
                assert image.ndim == 3


def test_the_machines_own_trouble_is_no_bad_file(tmp_path, monkeypatch):
    def too_many_open(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    write_image(tmp_path / "photo.png", RGB)
    monkeypatch.setattr(door, "kind_of", too_many_open)
    with pytest.raises(OSError, match=r"Too many open files.*photo\.png"):
        read_rgb(tmp_path / "photo.png")


def test_what_an_output_cannot_show_is_escaped():
    assert printable("caf\udce9 \u00e4", "utf-8") == "caf\\udce9 \u00e4"
    assert printable("\u56fe", "ascii") == "\\u56fe"
    assert printable("a", None) == "a"
