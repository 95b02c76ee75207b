"""ArrayRecord files of photos and pairs."""

import os
import pathlib
import pickle

import numpy as np
import pytest

from tpgdiff_jax.data import record_files
from tpgdiff_jax.data.images import read_rgb
from tpgdiff_jax.data.records import RecordPairs, RecordPhotos, write_records
from tpgdiff_jax.reporting.errors import UserError

PHOTOS = pathlib.Path(__file__).parents[2] / "configs" / "quickstart_photos"


def _damage(path: pathlib.Path, record: int) -> None:
    """Flip bits in the middle of a record; they all are of about the same size."""
    from array_record.python.array_record_module import ArrayRecordReader

    content = bytearray(path.read_bytes())
    reader = ArrayRecordReader(os.fsencode(path))
    stored = reader.read([record])[0]
    reader.close()
    content[content.find(stored[2000:2050])] ^= 255
    path.write_bytes(content)


def test_real_photos_come_back_to_the_bit(photos, tmp_path):
    path = tmp_path / "new" / "photos.array_record"
    assert write_records(path, photos) == len(photos)
    source = RecordPhotos(path)
    assert len(source) == source.found == len(photos)
    assert source.classes == ()
    for index, photo in enumerate(photos):
        np.testing.assert_array_equal(source[index], photo["image"])
        assert source.name(index) == photo["name"]
    assert [p.name for p in path.parent.iterdir()] == ["photos.array_record"]


def test_real_pairs_come_back_to_the_bit(pairs, tmp_path):
    write_records(tmp_path / "a.array_record", pairs, classes=("dark", "darker"))
    source = RecordPairs(tmp_path / "a.array_record")
    assert source.classes == ("dark", "darker")
    for index, pair in enumerate(pairs):
        element = source[index]
        assert element.keys() == {"lq", "gt", "label"}
        np.testing.assert_array_equal(element["lq"], pair["lq"])
        np.testing.assert_array_equal(element["gt"], pair["gt"])
        assert element["label"] == pair["label"]
        assert source.recipe(index) == pair["recipe"]


def test_image_files_are_stored_as_they_are(tmp_path):
    file = next(PHOTOS.rglob("*.jpg"))
    write_records(tmp_path / "a.array_record", [{"name": "a", "image": file.read_bytes()}])
    np.testing.assert_array_equal(RecordPhotos(tmp_path / "a.array_record")[0], read_rgb(file))


@pytest.mark.parametrize("as_what", ["folder", "pattern", "list"])
def test_several_files_follow_one_another(photos, tmp_path, as_what):
    for number in range(2):
        part = photos[2 * number : 2 * number + 2]
        write_records(tmp_path / f"photos.array_record-{number:05d}-of-00002", part)
    files = sorted(tmp_path.iterdir())
    paths = {"folder": tmp_path, "pattern": str(tmp_path / "photos*"), "list": files}[as_what]
    source = RecordPhotos(paths)
    assert [source.name(i) for i in range(4)] == [photo["name"] for photo in photos]


def test_a_name_that_is_no_text_is_as_good_as_others(photos, tmp_path):
    path = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9/a\xff.array_record"))
    write_records(path, photos)
    source = RecordPhotos(path.parent)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[0], photos[0]["image"])
    _damage(path, 1)
    source = RecordPhotos(path)
    assert source[1] is None
    assert "damaged record" in source.summary()
    path.write_bytes(b"")
    with pytest.raises(UserError, match="is no ArrayRecord file or incomplete"):
        RecordPhotos(path)
    with pytest.raises(UserError, match=r"incomplete \(.*No such file"):
        record_files.count(f"{path}.gone")


def test_pickled_copies_read_the_same(pairs, tmp_path):
    write_records(tmp_path / "a.array_record", pairs, classes=("dark", "darker"))
    source = RecordPairs(tmp_path / "a.array_record", cache_mb=4)
    again = pickle.loads(pickle.dumps(source))
    assert repr(again) == repr(source)
    assert str(tmp_path) not in repr(source)
    np.testing.assert_array_equal(again[1]["lq"], source[1]["lq"])


def test_labels_follow_the_order_a_run_wants(pairs, tmp_path):
    write_records(tmp_path / "a.array_record", pairs, classes=("dark", "darker"))
    source = RecordPairs(tmp_path / "a.array_record", classes=("rain", "darker", "dark"))
    assert [source[i]["label"] for i in range(4)] == [2, 1, 2, 1]
    with pytest.raises(ValueError, match="class 'dark'"):
        RecordPairs(tmp_path / "a.array_record", classes=("rain", "darker"))


def test_a_damaged_record_is_reported_and_the_others_read(photos, tmp_path):
    path = tmp_path / "a.array_record"
    write_records(path, photos)
    _damage(path, 1)
    source = RecordPhotos(path)
    assert [source[i] is None for i in range(4)] == [False, True, False, False]
    assert source.name(1) == "a.array_record[1]"
    ((file, reason),) = source.report.items().items()
    assert file == f"{path}[1]"
    assert reason.startswith("damaged record: ")


def test_bad_images_in_good_records_are_reported(photos, tmp_path):
    examples = [
        *photos[:1],
        {"name": "text", "image": b"no image"},
        {"name": "small", "image": photos[0]["image"][:10]},
    ]
    write_records(tmp_path / "a.array_record", examples)
    source = RecordPhotos(tmp_path / "a.array_record", min_size=32)
    assert [source[i] is None for i in range(3)] == [False, True, True]
    reasons = list(source.report.items().values())
    assert reasons == [
        "not an image, whatever its name says",
        "240x10 is smaller than the 32 pixels that data.crop_size or scores need",
    ]


def test_an_interrupted_write_leaves_nothing(photos, tmp_path):
    path = tmp_path / "a.array_record"

    def broken():
        yield photos[0]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_records(path, broken())
    assert not list(tmp_path.iterdir())
    write_records(path, photos)
    with pytest.raises(RuntimeError, match="power cut"):
        write_records(path, broken())
    assert len(RecordPhotos(path)) == len(photos)  # the earlier file is still whole


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"image": b"x"}, "needs 'name'"),
        ({"name": "a", "lq": b"x"}, "'lq' and 'gt'"),
        ({"name": "a", "lq": b"x", "gt": b"x", "label": 2}, "label 2, but there are 2 classes"),
        (None, "no examples"),
    ],
)
def test_incomplete_examples_are_refused(tmp_path, example, message):
    with pytest.raises(ValueError, match=message):
        write_records(tmp_path / "a.array_record", [example] if example else [], ("x", "y"))
    assert not list(tmp_path.iterdir())


def test_wrong_files_are_one_clear_error(photos, pairs, tmp_path):
    write_records(tmp_path / "photos.array_record", photos)
    write_records(tmp_path / "pairs.array_record", pairs, classes=("dark", "darker"))
    write_records(tmp_path / "others.array_record", pairs, classes=("x", "y"))
    (tmp_path / "text.array_record").write_text("no records")
    with pytest.raises(ValueError, match=r"photos\.array_record holds image, .*record_photos"):
        RecordPairs(tmp_path / "photos.array_record")
    with pytest.raises(ValueError, match=r"pairs\.array_record holds lq/gt, .*record_pairs"):
        RecordPhotos(tmp_path / "pairs.array_record")
    with pytest.raises(ValueError, match=r"others.*\['x', 'y'\].*\['dark', 'darker'\]"):
        RecordPairs([tmp_path / "pairs.array_record", tmp_path / "others.array_record"])
    with pytest.raises(ValueError, match=r"text\.array_record is no ArrayRecord file"):
        RecordPhotos(tmp_path / "text.array_record")
    for missing in (tmp_path / "missing", str(tmp_path / "none-*")):
        with pytest.raises(ValueError, match="No ArrayRecord file"):
            RecordPhotos(missing)


def test_pairs_of_unknown_degradation_are_refused_or_named(tmp_path):
    """They must not pass for the first degradation of a run."""
    path = tmp_path / "a.array_record"
    image = np.zeros((8, 8, 3), np.uint8)
    write_records(path, [{"name": "a", "lq": image, "gt": image}])
    assert RecordPairs(path).classes == ()  # whoever asks for no classes may have them
    with pytest.raises(UserError, match=r"does not say .*class_name=NAME .*one of noise, rain"):
        RecordPairs(path, classes=("noise", "rain"))
    named = RecordPairs(path, classes=("noise", "rain"), class_name="rain")
    assert named[0]["label"] == 1
    pair = {"name": "a", "lq": image, "gt": image, "label": 0}
    write_records(tmp_path / "b.array_record", [pair], classes=("rain",))
    with pytest.raises(UserError, match="names its own classes, rain"):
        RecordPairs(tmp_path / "b.array_record", class_name="rain")


def test_hidden_record_files_are_no_data(tmp_path):
    image = np.zeros((8, 8, 3), np.uint8)
    write_records(tmp_path / "a.array_record", [{"name": "a", "image": image}])
    (tmp_path / ".1.ab.partial.array_record").write_bytes(b"half")
    (tmp_path / "._a.array_record").write_bytes(b"notes")
    assert len(RecordPhotos(tmp_path)) == 1
