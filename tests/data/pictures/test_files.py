"""Pictures of 16 bit, and files that are whole or not there."""

import resource
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.data.pictures.door import content_mark, read_picture
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.data.pictures.metadata import Metadata
from tpgdiff_jax.data.pictures.png import SIGNATURE, chunk
from tpgdiff_jax.inference.input_images import as_input

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DEEP = np.random.default_rng(0).integers(0, 65536, (5, 7, 4)).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bit_come_through_files_unchanged(tmp_path, suffix, channels):
    path = tmp_path / f"tief und weit ä{suffix}"
    write_image(path, DEEP[..., :channels])
    found = read_picture(path)
    np.testing.assert_array_equal(found.pixels, DEEP[..., :channels])
    form = as_input(path)
    np.testing.assert_array_equal(form.rebuild(form.rgb), DEEP[..., :channels])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_damaged_files_of_16_bit_are_named(tmp_path, suffix, harm):
    path = tmp_path / f"deep{suffix}"
    write_image(path, DEEP[..., :3].repeat(9, 0).repeat(9, 1))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data if harm == "flipped" else data[: len(data) // 2])
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(UnreadableImageError, match="deep"),
    ):
        read_picture(path)


def test_a_profile_of_colours_is_written(tmp_path):
    write_image(tmp_path / "a.jpg", DEEP[..., :3].astype(np.uint8), Metadata(icc=SRGB))
    assert Image.open(tmp_path / "a.jpg").info["icc_profile"] == SRGB


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_a_picture_that_does_not_fit_on_the_disk_is_not_there(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_image(path, image)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_a_png_is_transparent_at_every_depth(bits):
    most = 2**bits - 1
    per_byte = 8 // bits
    levels = np.arange(8) * most // 7  # a row of eight pixels
    packed = bytes(
        sum(int(level) << bits * (per_byte - 1 - n) for n, level in enumerate(group))
        for group in levels.reshape(-1, per_byte)
    )
    for key in (0, most):
        data = b"".join([
            SIGNATURE,
            chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0)),
            chunk(b"tRNS", struct.pack(">H", key)),
            chunk(b"IDAT", zlib.compress(b"\0" + packed)),
            chunk(b"IEND", b""),
        ])  # fmt: skip
        pixels = read_picture(data, "a.png").pixels
        assert pixels.shape == (1, 8, 2)
        np.testing.assert_array_equal(pixels[0, :, 1] == 0, levels == key)
        np.testing.assert_array_equal(pixels[0, :, 0], levels * 255 // most)


@pytest.mark.parametrize("place", [0, 500_000, 999_999])
def test_contents_of_one_length_are_told_apart(tmp_path, place):
    content = bytearray(10**6)
    marks = {content_mark(bytes(content)), content_mark(b""), content_mark(b"\0")}
    content[place] = 1
    (tmp_path / "a.bmp").write_bytes(content)
    marks.add(content_mark(tmp_path / "a.bmp"))
    assert len(marks) == 4
    assert content_mark(tmp_path / "a.bmp") == content_mark(bytes(content))
