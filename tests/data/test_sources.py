"""Folders of photos, good and bad, and what all sources share."""

import logging
import multiprocessing
import pickle

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.data import sources
from tpgdiff_jax.data.folders import list_images
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.data.sources import PhotoFolder


@pytest.fixture
def folder(tmp_path):
    """A folder with three good photos, a text file, a truncated JPEG and a small photo."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"

    def save(name, size=(48, 64, 3)):
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
        return path

    save("b.png")
    save("a.jpg")
    save("deeper/grey.png", (40, 40))
    save("small.png", (8, 64, 3))
    save(".half.partial.png")
    (folder / "text.png").write_text("this is no image")
    broken = save("broken.jpg")
    broken.write_bytes(broken.read_bytes()[:900])
    (folder / "notes.txt").write_text("not even called an image")
    (folder / "folder.png").mkdir()
    return folder


def _read_all(source) -> None:
    for index in range(len(source)):
        source[index]


def test_good_photos_are_found_and_bad_ones_listed(folder):
    photos = PhotoFolder(folder, min_size=32)
    decoded = [photos[i] for i in range(len(photos))]
    used = {name for name, image in zip(photos.names, decoded, strict=True) if image is not None}
    assert used == {"a.jpg", "b.png", "deeper/grey.png"}
    bad = {name.removeprefix(f"{folder}/"): why for name, why in photos.report.items().items()}
    assert bad == {
        "text.png": "not an image, whatever its name says",
        "small.png": "64x8 is smaller than the 32 pixels that data.crop_size or scores need",
        "broken.jpg": "truncated",
    }
    assert photos.found == 6
    summary = photos.summary()
    assert summary.startswith(f"3 photos in {folder}; skipped 3: broken.jpg (truncated), ")


def test_names_are_sorted_and_relative_to_the_folder(folder):
    photos = PhotoFolder(folder, min_size=32)
    names = [photos.name(i) for i in range(len(photos))]
    assert names == ["a.jpg", "b.png", "broken.jpg", "deeper/grey.png"]


def _touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_linked_folders_are_followed_and_loops_are_not(tmp_path, caplog):
    folder, store = tmp_path / "photos", tmp_path / "store"
    _touch(folder / "a.png", folder / "deep/b.png", store / "c.png", store / "deeper/d.JPG")
    (folder / "linked").symlink_to(store)
    (folder / "file.png").symlink_to(store / "c.png")
    (folder / "deep/up").symlink_to(folder)
    (store / "self").symlink_to(store)
    (store / "back").symlink_to(folder)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    (folder / "itself").symlink_to(folder / "itself")
    with caplog.at_level(logging.INFO, logger="absl"):
        found = list_images(folder).names
    expected = ["a.png", "deep/b.png", "file.png", "linked/c.png", "linked/deeper/d.JPG"]
    assert found == expected
    for words in (
        "1 linked folders followed: linked",
        "3 folders left out, since they are links back to a folder they lie in: deep/up, linked/ba",
        "3 links left out, since what they name does not exist: gone, gone.png, itself",
    ):
        assert f"{folder}: {words}" in caplog.text
    # The folder itself may be a link, and two names of one folder are both listed.
    (tmp_path / "alias").symlink_to(folder)
    assert list_images(tmp_path / "alias").names == expected
    (folder / "again").symlink_to(store)
    assert "again/c.png" in list_images(folder).names


def test_hidden_folders_are_left_out_like_hidden_files(tmp_path, caplog):
    folder = tmp_path / ".cache" / "photos"  # only what is hidden below the folder counts
    _touch(folder / "a.png", folder / "._a.png", folder / ".notes.txt", folder / ".thumbs/b.png")
    _touch(folder / "deep/.git/c.png", folder / "deep/d.png")
    with caplog.at_level(logging.INFO, logger="absl"):
        assert list_images(folder).names == ["a.png", "deep/d.png"]
    assert "1 hidden image files left out: ._a.png" in caplog.text
    assert "2 hidden folders left out: .thumbs, deep/.git" in caplog.text
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_indices_are_those_of_a_sequence(folder):
    photos = PhotoFolder(folder, min_size=32)
    np.testing.assert_array_equal(photos[-1], photos[len(photos) - 1])
    np.testing.assert_array_equal(photos[np.int64(1)], photos[1])
    with pytest.raises(IndexError):
        photos[len(photos)]
    assert len(list(photos)) == len(photos)


def test_cache_gives_the_same_photo_and_keeps_its_budget(folder):
    photos = PhotoFolder(folder, min_size=32, cache_mb=1)
    first = photos[0]
    assert photos[0] is first
    assert not first.flags.writeable
    assert PhotoFolder(folder, min_size=32, cache_mb=0)[0] is not first


def test_description_is_the_same_wherever_the_folder_lies(folder, tmp_path):
    before = repr(PhotoFolder(folder, min_size=32))
    folder = folder.rename(tmp_path / "moved")
    photos = PhotoFolder(folder, min_size=32)
    _read_all(photos)
    assert repr(photos) == repr(pickle.loads(pickle.dumps(photos))) == before
    (folder / "b.png").rename(folder / "c.png")
    assert repr(PhotoFolder(folder, min_size=32)) != before


def test_survives_pickling(folder):
    photos = PhotoFolder(folder, min_size=32, cache_mb=1)
    again = pickle.loads(pickle.dumps(photos))
    np.testing.assert_array_equal(photos[0], again[0])


def test_a_copy_has_the_whole_budget_of_its_cache_again(folder):
    photos = PhotoFolder(folder, min_size=32, cache_mb=1)
    _read_all(photos)
    photos._free_bytes = 0  # as after a megabyte of photos
    copy = pickle.loads(pickle.dumps(photos))
    assert copy[0] is copy[0]
    again = pickle.loads(pickle.dumps(copy))
    assert again._free_bytes == 1 << 20


def test_worker_processes_report_what_they_find(folder, tmp_path):
    report = SkipReport(tmp_path / "skipped.jsonl")
    photos = PhotoFolder(folder, min_size=32, report=report)
    assert len(report.items()) == 2  # those the headers give away
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_read_all, args=(photos,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert report.items()[str(folder / "broken.jpg")] == "truncated"
    assert len(report.path.read_text().splitlines()) in (3, 4)  # both may have been first
    with pytest.raises(ValueError, match=r"3 of 6 files.*data\.max_bad_share"):
        report.check(photos.found, max_share=0.4)


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
        "only_bad": r"None of the 1 image files.*text\.png \(not an image",
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


def test_headers_of_many_files_are_read_in_parts_and_told_of(folder, monkeypatch, caplog):
    paths = [path for path in sorted(folder.rglob("*.*")) if path.is_file()] * 3
    caplog.set_level(logging.INFO)
    whole = sources.scan_sizes(paths)
    assert "reading headers" not in caplog.text
    monkeypatch.setattr(sources, "_MANY", 2)
    monkeypatch.setattr(sources, "_TOGETHER", 2)
    assert sources.scan_sizes(paths) == whole
    assert f"reading headers: {len(paths)} of {len(paths)} files" in caplog.text
