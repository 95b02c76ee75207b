"""Nothing that looks like a picture is left out of a folder without a word."""

import logging
import os

import numpy as np

from tpgdiff_jax.data.folders import home, list_images
from tpgdiff_jax.data.images import encode_png, write_image
from tpgdiff_jax.data.sources import PhotoFolder

PNG = encode_png(np.zeros((40, 40, 3), np.uint8))


def _touch(folder, *names, data=b""):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_kinds_that_people_have_are_taken(tmp_path):
    kinds = ("jfif", "jpe", "gif", "avif", "heic", "jxl", "jp2", "ppm", "tga", "PNG", "JpG")
    names = [f"a.{kind}" for kind in kinds]
    _touch(tmp_path, *names)
    assert list_images(tmp_path).names == sorted(names)


def test_what_is_left_out_is_counted_and_named(tmp_path, caplog):
    _touch(tmp_path, "a.png", "x/b.dng", "c.psd", "d.svg", "movie.mp4", "notes.txt", data=PNG)
    _touch(tmp_path, "photo", "old.jpg.1", "tweet.JPG_large", data=PNG)
    _touch(tmp_path, "README", "a.jpg.json", "Makefile", data=b"text")
    _touch(tmp_path, "@eaDir/a.png/SYNOPHOTO.jpg", "__MACOSX/a.png", ".git/b.png")
    os.mkfifo(tmp_path / "pipe.png")
    with caplog.at_level(logging.INFO, logger="absl"):
        listing = list_images(tmp_path)
    assert listing.names == ["a.png"]
    assert listing.troubles == {}
    assert (
        "4 pictures left out, of kinds that are not read: c.psd, d.svg, movie.mp4, ..."
        in caplog.text
    )
    assert "3 pictures left out, whose names do not end in one of" in caplog.text
    assert "old.jpg.1, photo, tweet.JPG_large" in caplog.text
    assert "3 hidden folders left out: .git, @eaDir, __MACOSX" in caplog.text
    assert "1 names of pictures left out, since they are pipes" in caplog.text
    assert "notes" not in caplog.text
    assert "README" not in caplog.text


def test_photos_that_cannot_be_reached_are_counted_as_bad(tmp_path, monkeypatch):
    write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    _touch(tmp_path, "locked/b.png", data=PNG)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    photos = PhotoFolder(tmp_path)
    assert (len(photos), photos.found) == (1, 3)
    assert photos.report.items() == {
        str(tmp_path / "gone.png"): f"a link to {tmp_path / 'nowhere.png'}, which does not exist",
        str(tmp_path / "locked"): "a folder that may not be read (permission denied)",
    }


def test_home_is_replaced_where_it_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert home("~/a") == tmp_path / "a"
    assert str(home("a/~/b")) == "a/~/b"
    (tmp_path / "~").mkdir()
    assert str(home("~/a")) == "~/a"  # a folder that is really called so
