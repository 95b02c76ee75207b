"""Sources opened from configuration entries."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.data.open_source import open_source
from tpgdiff_jax.data.pairs import PairFolder
from tpgdiff_jax.data.records import RecordPairs, RecordPhotos, write_records
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.data.tfds.sets import TfdsSource
from tpgdiff_jax.data.tfds.writing import write_tfds

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
PAIR = {"name": "a", "lq": IMAGE, "gt": 255 - IMAGE, "label": 0}


@pytest.fixture
def folder(tmp_path):
    """One image and one pair in every kind of storage."""
    write_image(tmp_path / "photos" / "a.png", IMAGE)
    write_image(tmp_path / "pairs" / "LQ" / "a.png", IMAGE)
    write_image(tmp_path / "pairs" / "GT" / "a.png", 255 - IMAGE)
    photo = {"name": "a", "image": IMAGE}
    write_records(tmp_path / "record_photos" / "a.array_record", [photo])
    write_records(tmp_path / "record_pairs" / "a.array_record", [PAIR], classes=("rain",))
    write_tfds(tmp_path / "tfds_photos", "restoration_photos", "test", [photo])
    write_tfds(tmp_path / "tfds_pairs", "restoration_pairs", "test", [PAIR], classes=("rain",))
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("photos", {}, PhotoFolder),
        ("pairs", {"class_name": "rain"}, PairFolder),
        ("record_photos", {"weight": 0.5}, RecordPhotos),
        ("record_pairs", {}, RecordPairs),
        ("tfds_photos", {"split": "test", "image_key": "image"}, TfdsSource),
        ("tfds_pairs", {"split": "test", "name": "restoration_pairs/default"}, TfdsSource),
    ],
)
def test_every_kind_follows_the_same_protocol(folder, kind, more, expected):
    report = SkipReport()
    spec = ConfigDict({"kind": kind, "path": str(folder / kind), **more})
    source = open_source(spec, min_size=8, cache_mb=1, report=report, classes=("haze", "rain"))
    assert type(source) is expected
    assert len(source) == 1
    assert source.report is report
    assert isinstance(source.name(0), str)
    assert source[0] is source[0]  # cached
    if kind.endswith("pairs"):
        assert source.classes == ("haze", "rain")
        assert source[0]["label"] == 1
        np.testing.assert_array_equal(source[0]["lq"], IMAGE)
        np.testing.assert_array_equal(source[0]["gt"], 255 - IMAGE)
    else:
        assert source.classes == ()
        np.testing.assert_array_equal(source[0], IMAGE)
    assert not report.items()
    with pytest.raises(ValueError, match="smaller than the 64 pixels"):
        open_source(spec, min_size=64, classes=("haze", "rain"))[0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": "x"}, "kind=None; expected one of photos, pairs, record_photos"),
        ({"kind": "video", "path": "x"}, "kind='video'; expected one of photos"),
        ({"kind": "photos"}, "lacks 'path'"),
        ({"kind": "tfds_pairs", "path": "x"}, "lacks 'split'"),
        ({"kind": "photos", "path": "x", "spilt": "y"}, "unknown key 'spilt'.*optional: weight"),
        ({"kind": "photos", "path": "x", "weight": 0}, "weight=0 is not above 0"),
        ({"kind": "photos", "path": "/none"}, "'/none' does not exist"),
        ({"kind": "pairs", "path": "/none"}, "'/none' does not exist"),
        ({"kind": "record_pairs", "path": "/none"}, "No ArrayRecord file '/none'"),
        ({"kind": "tfds_pairs", "path": "/none", "split": "test"}, "data_dir=/none"),
    ],
)
def test_wrong_entries_are_one_clear_error(spec, message):
    with pytest.raises(ValueError, match=message):
        open_source(spec)
