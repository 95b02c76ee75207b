"""Folders of photos, good and bad."""

import pickle

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.data.sources import PhotoFolder


@pytest.fixture
def folder(tmp_path):
    """A folder with three good photos, a text file, a truncated JPEG and a small photo."""
    rng = np.random.default_rng(0)

    def save(name, size=(48, 64, 3)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
        return path

    save("b.png")
    save("a.jpg")
    save("deeper/grey.png", (40, 40))
    save("small.png", (8, 64, 3))
    (tmp_path / "text.png").write_text("this is no image")
    broken = save("broken.jpg")
    broken.write_bytes(broken.read_bytes()[:900])
    (tmp_path / "notes.txt").write_text("not even called an image")
    return tmp_path


def test_good_photos_are_found_and_bad_ones_listed(folder):
    photos = PhotoFolder(folder, min_size=32)
    decoded = [photos[i] for i in range(len(photos))]
    used = {p.name for p, image in zip(photos.paths, decoded, strict=True) if image is not None}
    assert used == {"a.jpg", "b.png", "grey.png"}
    assert {p.name for p in photos.skipped} == {"text.png", "small.png", "broken.jpg"}
    summary = photos.summary()
    assert "3 photos" in summary
    assert "skipped 3" in summary
    assert "64x8 is smaller than the crop of 32 pixels" in summary
    assert "not an image" in summary


def test_order_is_by_path(folder):
    paths = PhotoFolder(folder).paths
    assert paths == sorted(paths)


def test_cache_gives_the_same_photo_and_keeps_its_budget(folder):
    photos = PhotoFolder(folder, min_size=32, cache_mb=1)
    first = photos[0]
    assert photos[0] is first
    assert PhotoFolder(folder, min_size=32, cache_mb=0)[0] is not first


def test_survives_pickling(folder):
    photos = PhotoFolder(folder, min_size=32, cache_mb=1)
    again = pickle.loads(pickle.dumps(photos))
    np.testing.assert_array_equal(photos[0], again[0])


@pytest.mark.parametrize("what", ["missing", "empty", "only_bad"])
def test_nothing_usable_is_one_clear_error(tmp_path, what):
    folder = tmp_path / "photos"
    if what != "missing":
        folder.mkdir()
    if what == "only_bad":
        (folder / "text.png").write_text("no image")
    expected = {
        "missing": "does not exist",
        "empty": "holds no image files",
        "only_bad": r"None of the 1 image files.*text\.png: not an image",
    }
    with pytest.raises(ValueError, match=expected[what]) as error:
        PhotoFolder(folder)
    assert str(folder) in str(error.value)


def test_all_photos_failing_to_decode_stops_instead_of_looping(tmp_path):
    path = tmp_path / "broken.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    photos = PhotoFolder(tmp_path)
    with pytest.raises(ValueError, match=r"None of the .*broken\.jpg"):
        photos[0]
