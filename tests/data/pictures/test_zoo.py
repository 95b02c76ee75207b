"""Every reader shows every picture alike, and as it was made; or all refuse it in one sentence."""

import io
import logging
import struct
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image
from zoo import U8, Animal, zoo

from tpgdiff_jax.benchmark.sets import Item, SetSpec
from tpgdiff_jax.data.images import encode_png, read_rgb
from tpgdiff_jax.data.pairs import PairFolder
from tpgdiff_jax.data.pictures.door import content_mark, read_picture, read_size
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.data.pictures.picture import MOST_FRAMES, to_8_bit
from tpgdiff_jax.data.pictures.tiff import TiffFile
from tpgdiff_jax.data.records import RecordPhotos, write_records
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.inference.input_images import as_input

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # so Pillow says of some
ANIMALS = {animal.name: animal for animal in zoo()}


def _restoring(path):
    return to_8_bit(as_input(path).rgb)


def _training(path):
    return _one(PhotoFolder(path.parent))


def _training_on_pairs(path):
    pairs = path.parent / "pairs"
    for side in ("LQ", "GT"):
        (pairs / side).mkdir(parents=True)
        (pairs / side / path.name).write_bytes(path.read_bytes())
    found = _one(PairFolder(pairs))
    np.testing.assert_array_equal(found["lq"], found["gt"])
    return found["lq"]


def _scoring(path):
    item = Item(SetSpec("set", "."), path.name, path, path, read_size(path))
    lq, gt = item.load(0)
    np.testing.assert_array_equal(lq, gt)
    return lq


def _records(path):
    file = path.parent / "a.array_record"
    sound = {"name": "sound", "image": encode_png(np.zeros((3, 3, 3), np.uint8))}
    write_records(file, [{"name": path.name, "image": path.read_bytes()}, sound])
    return _one(RecordPhotos(file))


def _one(source):
    found = source[0]
    if found is None:
        (reason,) = source.report.items().values()
        raise UnreadableImageError("x", reason)
    return found


READERS = {
    "training": _training,
    "pairs": _training_on_pairs,
    "scoring": _scoring,
    "records": _records,
    "restoring": _restoring,
    "decoding": lambda path: read_rgb(path.read_bytes(), path.name),
}


@pytest.mark.parametrize("name", ANIMALS)
def test_all_readers_agree(tmp_path, name):
    animal: Animal = ANIMALS[name]
    path = tmp_path / name
    path.write_bytes(animal.data)
    if animal.shows is None:
        for key, read in {"plain": read_rgb, **READERS}.items():
            if key in ("training", "pairs"):  # the only picture there, or of a kind not looked for
                continue
            with pytest.raises(UnreadableImageError, match=animal.refused):
                read(path)
        return
    expected = read_rgb(path)
    assert expected.dtype == np.uint8
    assert expected.shape == (*read_size(path), 3)
    assert expected.shape == animal.shows.shape
    assert np.abs(expected / 255 - animal.shows).mean() <= animal.tolerance
    for key, read in READERS.items():
        np.testing.assert_array_equal(read(path), expected, err_msg=key)


def test_a_picture_is_marked_as_its_file_is(tmp_path):
    for animal in ANIMALS.values():
        if animal.shows is not None:
            (tmp_path / animal.name).write_bytes(animal.data)
            mark = read_picture(tmp_path / animal.name, marked=True).mark
            assert mark == content_mark(animal.data), animal.name


def test_further_frames_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="absl")
    for animal in ANIMALS.values():
        if animal.shows is not None:
            assert read_picture(animal.data, animal.name).frames == animal.frames, animal.name
    assert "two_pages.tif: frame 1 of 2" in caplog.text


def test_a_tiff_of_very_many_pages_is_read_as_fast_as_another(caplog):
    """And what tifffile says of each of them is logged a few times."""
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, logger="absl")  # which flags may have set
    looked_at = []

    def pages(number: int) -> bytes:
        data = bytearray(b"II*\0" + struct.pack("<I", 8))
        for left in reversed(range(number)):
            # The last tag is of a type that does not exist.
            tags = [(256, 3, 1), (257, 3, 1), (273, 4, 8), (279, 4, 1), (700, 99, 1)]
            data += struct.pack("<H", len(tags))
            for tag, kind, value in tags:
                data += struct.pack("<HHII", tag, kind, 1, value)
            data += struct.pack("<I", len(data) + 4 if left else 0)
        return bytes(data)

    class Counted(io.BytesIO):
        def read(self, *args):
            looked_at.append(self.tell())
            return super().read(*args)

    assert read_picture(pages(7), "few.tif").frames == 7
    many = pages(5000)
    file = TiffFile(Counted(many))
    assert file.pixels().shape == (1, 1)
    assert file.frames() == MOST_FRAMES + 1
    assert max(looked_at) < len(many) / 4
    assert read_picture(many, "many.tif").frames > MOST_FRAMES
    assert "few.tif: frame 1 of 7 is read" in caplog.text
    assert "many.tif: frame 1 of more than 1000 is read" in caplog.text
    assert sum(record.name == "tifffile" for record in caplog.records) < 20


@pytest.mark.parametrize(
    ("module", "kind", "name"), [("pillow_heif", "HEIF", "a.heic"), ("pillow_jxl", "JXL", "a.jxl")]
)
def test_kinds_that_need_a_package(tmp_path, monkeypatch, module, kind, name):
    plugin = pytest.importorskip(module)
    if kind == "HEIF":
        plugin.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(U8).save(tmp_path / name, kind, exif=exif.tobytes(), quality=95)
    size, found = read_size(tmp_path / name), read_rgb(tmp_path / name)
    assert found.shape == (*size, 3)
    assert size == (U8.shape[1], U8.shape[0])  # upright
    assert np.abs(found / 255 - np.rot90(U8, -1) / 255).mean() < 12 / 255
    np.testing.assert_array_equal(_restoring(tmp_path / name), found)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnreadableImageError, match=r"needs a package .*: pip install pillow"):
        read_size(tmp_path / name)


def test_a_tiff_that_tifffile_answers_with_nothing_is_refused(monkeypatch):
    """So tifffile 2026.11 does with sample types that it does not know."""
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda self: np.empty((0,), np.uint8))
    with pytest.raises(UnreadableImageError, match="a sample type that nothing reads"):
        read_picture(ANIMALS["rgba.tif"].data, "rgba.tif")
