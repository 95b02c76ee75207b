"""Reading any kind of image file as 8-bit RGB, and writing without half-written files."""

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.data.images import UnreadableImageError, read_rgb, read_size, write_image

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def test_round_trip_and_no_temporary_file_left(tmp_path):
    path = tmp_path / "new" / "photo.png"
    write_image(path, RGB)
    np.testing.assert_array_equal(read_rgb(path), RGB)
    assert [p.name for p in path.parent.iterdir()] == ["photo.png"]
    assert read_size(path) == (20, 30)


def test_grey_is_repeated(tmp_path):
    Image.fromarray(RGB[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), RGB[..., :1].repeat(3, -1))


def test_alpha_is_dropped(tmp_path):
    alpha = np.full((20, 30, 1), 77, np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], -1)).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "alpha.png"), RGB)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    grey = read_rgb(tmp_path / "deep.png")
    assert grey.shape == (20, 30, 3)
    np.testing.assert_allclose(grey[..., 0], deep / 257, atol=0.51)


def test_palette_and_cmyk(tmp_path):
    Image.fromarray(RGB).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "cmyk.jpg")
    for name in ("palette.png", "cmyk.jpg"):
        assert read_rgb(tmp_path / name).shape == (20, 30, 3)


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    assert read_size(tmp_path / "turned.png") == (30, 20)
    np.testing.assert_array_equal(read_rgb(tmp_path / "turned.png"), np.rot90(RGB, -1))


@pytest.mark.parametrize("kind", ["text", "empty", "truncated"])
def test_unreadable_files_are_named(tmp_path, kind):
    path = tmp_path / "bad.png"
    Image.fromarray(RGB).save(path)
    data = {"text": b"no image at all", "empty": b"", "truncated": path.read_bytes()[:300]}
    path.write_bytes(data[kind])
    with pytest.raises(UnreadableImageError, match=r"bad\.png"):
        read_rgb(path)
