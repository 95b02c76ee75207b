"""Pictures of 16 bit, and files that are whole or not there."""

import resource
import warnings

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from tpgdiff_jax.data.images import UnreadableImageError
from tpgdiff_jax.inference import files
from tpgdiff_jax.inference.forms import form_of_any

DEEP = np.random.default_rng(0).integers(0, 65536, (5, 7, 4)).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_16_bit_come_through_files_unchanged(tmp_path, suffix, channels):
    path = tmp_path / f"tief und weit ä{suffix}"
    files.write_picture(path, DEEP[..., :channels])
    found = files.read_picture(path)
    np.testing.assert_array_equal(found, DEEP[..., :channels])
    form = form_of_any(path)
    np.testing.assert_array_equal(form.rebuild(form.rgb), DEEP[..., :channels])


def test_other_programs_files_of_16_bit(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", DEEP[..., :3], photometric="rgb")
    np.testing.assert_array_equal(files.read_picture(tmp_path / "a.tif"), DEEP[..., :3])
    planes = np.moveaxis(DEEP[..., :3], -1, 0)
    tifffile.imwrite(tmp_path / "b.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(UnreadableImageError, match="one plane per colour"):
        files.read_picture(tmp_path / "b.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_of_16_bit_are_pillows(orientation):
    small = DEEP[..., 0].astype(np.uint8)
    picture = Image.fromarray(small)
    picture.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(files._turned(small, orientation), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("harm", ["truncated", "flipped"])
def test_damaged_files_of_16_bit_are_named(tmp_path, suffix, harm):
    path = tmp_path / f"deep{suffix}"
    files.write_picture(path, DEEP[..., :3].repeat(9, 0).repeat(9, 1))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data if harm == "flipped" else data[: len(data) // 2])
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(UnreadableImageError, match="deep"),
    ):
        files.read_picture(path)


def test_what_opencv_refuses_is_an_unreadable_image(tmp_path, monkeypatch):
    def refuse(*_):
        raise cv2.error("too many columns")

    files.write_picture(tmp_path / "deep.png", DEEP)
    monkeypatch.setattr(cv2, "imdecode", refuse)
    with pytest.raises(UnreadableImageError, match=r"deep\.png"):
        files.read_picture(tmp_path / "deep.png")


def test_a_profile_of_colours_is_written(tmp_path):
    files.write_picture(tmp_path / "a.jpg", DEEP[..., :3].astype(np.uint8), b"profile")
    assert Image.open(tmp_path / "a.jpg").info["icc_profile"] == b"profile"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
def test_a_picture_that_does_not_fit_on_the_disk_is_not_there(tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            files.write_picture(path, image)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not list(tmp_path.iterdir())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
