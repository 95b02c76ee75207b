"""What a run knows its data by: no start reads the images, and runs of earlier programs go on."""

import hashlib
import os

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource

from tpgdiff_jax.data.identity import fingerprint, is_same_data
from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.data.records import write_records
from tpgdiff_jax.data.tfds.writing import write_tfds
from tpgdiff_jax.data.training_data import open_training_data

COUNT = 12


def _examples(first: int = 0):
    rng = np.random.default_rng(first)
    for number in range(first, first + COUNT):
        yield {"name": f"{number}.png", "image": rng.integers(0, 256, (32, 32, 3), np.uint8)}


def _folder(folder):
    for example in _examples():
        write_image(folder / "photos" / example["name"], example["image"])
    return f"photos:{folder / 'photos'}"


def _records(folder):
    for name, first in (("a", 0), ("b", 100)):
        write_records(folder / f"{name}.array_record", _examples(first))
    return f"record_photos:{folder}"


def _tfds(folder):
    write_tfds(folder, "restoration_photos", "train", _examples(), examples_per_shard=5)
    return f"tfds_photos:{folder}@train"


KINDS = pytest.mark.parametrize("make", [_folder, _records, _tfds])


@pytest.fixture
def opened(tiny_config, tmp_path):
    """`opened(make)` -> the training data that `make` has written."""

    def opened(make):
        tiny_config.data.train_folder = ""
        tiny_config.data.train_sources = (make(tmp_path),)
        return open_training_data(tiny_config, None)

    return opened


@pytest.mark.parametrize(("make", "most"), [(_records, 2), (_tfds, 0)])
def test_a_start_reads_no_record_but_the_first_of_each_file(opened, monkeypatch, make, most):
    read = []
    real = ArrayRecordDataSource.__getitem__

    def counted(self, index):
        read.append(index)
        return real(self, index)

    monkeypatch.setattr(ArrayRecordDataSource, "__getitem__", counted)
    data = opened(make)
    data.check(0.0)
    assert "photos in" in data.summary()
    assert len(read) <= most
    assert data.sources[0][3].shape == (32, 32, 3)
    assert len(read) <= most + 1  # it does count


@KINDS
def test_the_fingerprint_stays_where_nothing_changed(opened, make, tmp_path):
    data = opened(make)
    assert is_same_data({"batches": 7, "frozen": "x", **data.fingerprint}, data.sources)
    assert fingerprint(data.sources) == data.fingerprint
    assert str(tmp_path) not in "".join(data.sources[0].identity())


@KINDS
def test_other_data_are_noticed(opened, make, tmp_path):
    data = opened(make)
    place = {"batches": 7, **data.fingerprint}
    if make is _folder:
        os.rename(tmp_path / "photos" / "3.png", tmp_path / "photos" / "other.png")
        data = opened(lambda folder: f"photos:{folder / 'photos'}")
    elif make is _records:
        write_records(tmp_path / "b.array_record", _examples(200))
        data = opened(lambda folder: f"record_photos:{folder}")
    else:
        file = next((tmp_path / "restoration_photos").rglob("*array_record-00001*"))
        file.write_bytes(file.read_bytes() + b"\0")
    assert not is_same_data(place, data.sources)


@KINDS
def test_a_run_of_an_earlier_program_goes_on(opened, make):
    """It stored a digest of all names, for every kind of source."""
    data = opened(make)
    source = data.sources[0]
    names = "".join(f"{source.name(number)}\n" for number in range(len(source)))
    place = {
        "batches": 7,
        "images": len(source),
        "names": hashlib.sha256(names.encode()).hexdigest(),
    }
    assert is_same_data(place, data.sources)
    assert not is_same_data(place | {"names": "other"}, data.sources)
    assert not is_same_data(place | {"images": 3}, data.sources)
