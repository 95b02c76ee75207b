"""What belongs to a picture goes with it, in 8 and in 16 bit, and never costs it."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.data.pictures.door import read_picture
from tpgdiff_jax.data.pictures.metadata import Metadata, orientation_of, sound_exif, sound_profile
from tpgdiff_jax.data.pictures.writing import encode_picture, for_format

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" b="c"/></x:xmpmeta>'
MAKER, COPYRIGHT, DATE, EXPOSURE = 271, 33432, 306, 33434
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def _photo(kind: str) -> bytes:
    exif = Image.Exif()
    exif.update({0x0112: 6, MAKER: "Maker", COPYRIGHT: "Somebody", DATE: "2026:01:02 03:04:05"})
    exif.get_ifd(0x8769)[EXPOSURE] = 0.5
    options = {"exif": exif, "icc_profile": SRGB, "dpi": (300, 200)}
    if kind == "JPEG":
        options |= {"xmp": XMP, "quality": 95}
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_result_keeps_what_its_photo_said(kind, suffix, depth):
    photo = read_picture(_photo(kind), kind)
    assert photo.pixels.shape == (30, 20, 3)
    pixels = for_format(photo.pixels.astype(depth) * (257 if depth == np.uint16 else 1), suffix)
    back = read_picture(encode_picture(pixels, suffix, photo.metadata), suffix)
    assert back.pixels.shape == (30, 20, 3)  # upright, and not turned again
    assert back.metadata.icc == SRGB
    block = Image.Exif()
    block.load(b"Exif\0\0" + back.metadata.exif)
    assert (block[MAKER], block[COPYRIGHT]) == ("Maker", "Somebody")
    assert block[DATE] == "2026:01:02 03:04:05"
    assert orientation_of(back.metadata.exif, back.metadata.xmp) == 1
    if kind == "JPEG":
        assert b'b="c"' in back.metadata.xmp
        if suffix != ".tif":  # of TIFFs the descriptive texts
            assert block.get_ifd(0x8769)[EXPOSURE] == 0.5
    if suffix != ".webp":
        assert back.metadata.dpi == pytest.approx((200, 300), rel=1e-3)  # it was turned


# What a TIFF says of its own layout; Photoshop and some phones leave it in a JPEG's EXIF, too.
LAYOUT = (254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 338, 339, 530)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".webp"])
@pytest.mark.parametrize("channels", [None, 2, 3, 4])
def test_what_exif_says_of_another_files_layout_changes_no_result(suffix, channels):
    shape = (20, 30) if channels is None else (20, 30, channels)
    pixels = for_format(np.random.default_rng(0).integers(0, 256, shape, np.uint8), suffix)
    plain = read_picture(encode_picture(pixels, suffix), suffix).pixels
    for tag in LAYOUT:
        exif = Image.Exif()
        exif.update({MAKER: "Maker", tag: 7})
        data = encode_picture(pixels, suffix, Metadata(exif=sound_exif(exif.tobytes())))
        back = read_picture(data, suffix)
        np.testing.assert_array_equal(back.pixels, plain, err_msg=str(tag))


def test_a_profile_goes_only_with_the_channels_it_is_for():
    assert sound_profile(SRGB, 3) == SRGB
    assert sound_profile(GREY_PROFILE, 1) == GREY_PROFILE
    for profile, colours in ((SRGB, 1), (GREY_PROFILE, 3), (b"profile", 3), (None, 3)):
        assert sound_profile(profile, colours) is None
    for shape, kept in (((4, 4), True), ((4, 4, 2), True), ((4, 4, 3), False), ((4, 4, 4), False)):
        for depth in (np.uint8, np.uint16):
            for suffix in (".png", ".tif"):
                data = encode_picture(np.zeros(shape, depth), suffix, Metadata(icc=GREY_PROFILE))
                back = read_picture(data, suffix)
                assert back.pixels.shape == shape
                assert back.pixels.dtype == depth
                assert (back.metadata.icc == GREY_PROFILE) is kept


def test_broken_metadata_are_left_out():
    assert sound_exif(b"\0\x08") is None
    assert sound_exif(b"Exif\0\0Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0") is not None
    assert orientation_of(b"Exif\0\0II*\0\xff\xff\0\0\1\0\0\0") == 1
    far = b"II*\0" + struct.pack("<I", 2**31) + b"\0" * 8
    assert Metadata(exif=far).upright(False).exif is None


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_texts_that_are_not_ascii_reach_a_tiff(depth, encoding):
    owner, artist, serial = "© 2024 Jürgen Müller", 315, 0xA431
    exif = Image.Exif()
    exif[artist] = owner.encode(encoding)
    exif.get_ifd(0x8769)[serial] = owner.encode(encoding)
    block = sound_exif(exif.tobytes())
    data = encode_picture(RGB.astype(depth), ".tif", Metadata(exif=block))
    assert owner.encode(encoding) + b"\0" in data
    assert data.count(owner.encode(encoding)) == (2 if depth == np.uint8 else 1)
    again = read_picture(data).metadata  # a TIFF's own texts go on as UTF-8
    assert owner.encode() + b"\0" in again.exif
    assert owner.encode() + b"\0" in encode_picture(RGB.astype(depth), ".tif", again)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".webp"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_exif_that_cannot_be_written_is_left_out_and_said(suffix, depth, tmp_path, caplog):
    entry = struct.pack("<HHII", MAKER, 5, 1, 26)  # a maker whose name is a fraction
    broken = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<III", 0, 7, 8)
    pixels = for_format(RGB.astype(depth), suffix)
    write_image(tmp_path / f"a{suffix}", pixels, Metadata(exif=broken, dpi=(300, 300)))
    back = read_picture(tmp_path / f"a{suffix}")
    assert back.pixels.shape == RGB.shape
    is_refused = suffix == ".tif" and depth == np.uint8
    assert (f"a{suffix} is written without EXIF" in caplog.text) is is_refused
    if suffix != ".webp":
        assert back.metadata.dpi == pytest.approx((300, 300), rel=1e-3)


def test_what_is_transparent_is_laid_on_white_where_there_is_no_alpha():
    magenta = np.array([[[255, 0, 255, 0], [10, 20, 30, 255]]], np.uint8)
    np.testing.assert_array_equal(for_format(magenta, ".jpg"), [[[255] * 3, [10, 20, 30]]])
    grey = np.array([[[9, 0], [9, 255]]], np.uint8)
    np.testing.assert_array_equal(for_format(grey, ".bmp"), [[255, 9]])
    np.testing.assert_array_equal(for_format(magenta, ".png"), magenta)


def test_formats_that_are_not_written_are_named():
    with pytest.raises(ValueError, match=r"'\.gif' is no image format that can be written.*\.png"):
        encode_picture(RGB, ".gif")
