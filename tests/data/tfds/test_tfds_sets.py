"""TFDS data sets, ours and others, written and read without TensorFlow."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tpgdiff_jax.data.images import encode_png
from tpgdiff_jax.data.tfds.sets import TfdsSource
from tpgdiff_jax.data.tfds.writing import write_tfds

ROOT = pathlib.Path(__file__).parents[3]
PHOTOS = ROOT / "configs" / "quickstart_photos"

# Runs where TensorFlow cannot be imported, even if it is installed.  (None in sys.modules would not
# do: TFDS takes any entry there for the real thing.)
_WITHOUT_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] == "tensorflow"
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]

import numpy as np
from tpgdiff_jax.data.open_source import open_source
from tpgdiff_jax.data.records import write_records
assert "tensorflow_datasets" not in sys.modules  # it takes a while; only when needed
from tpgdiff_jax.data.tfds.writing import write_tfds

data_dir, photo_folder = sys.argv[1:]
photos = open_source({"kind": "photos", "path": photo_folder})
examples = [
    {"name": photos.name(i), "lq": photos[i] // 2, "gt": photos[i], "label": 1} for i in range(3)
]
write_tfds(data_dir, "restoration_pairs", "test", examples, classes=("rain", "dark"))
write_records(data_dir + "/a.array_record", examples, classes=("rain", "dark"))
import tensorflow_datasets as tfds
plain = tfds.data_source("restoration_pairs/default", split="test", data_dir=data_dir)
ours = open_source({"kind": "tfds_pairs", "path": data_dir, "split": "test"})
records = open_source({"kind": "record_pairs", "path": data_dir + "/a.array_record"})
for i, example in enumerate(examples):
    for key in ("lq", "gt", "label"):
        for source in (plain, ours, records):
            np.testing.assert_array_equal(source[i][key], example[key])
assert "tensorflow" not in sys.modules
print("equal")
"""


@pytest.fixture
def pairs_dir(pairs, tmp_path):
    """A TFDS folder with four pairs in two shards."""
    classes = ("dark", "darker")
    write_tfds(tmp_path, "restoration_pairs", "test", pairs, classes=classes, examples_per_shard=3)
    return tmp_path


def test_preparing_and_reading_need_no_tensorflow(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TENSORFLOW, str(tmp_path), str(PHOTOS)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "equal"


def test_real_photos_come_back_to_the_bit(photos, tmp_path):
    folder = write_tfds(tmp_path, "restoration_photos", "train", photos, config="mine")
    assert folder == tmp_path / "restoration_photos" / "mine" / "1.0.0"
    source = TfdsSource("restoration_photos/mine", "train", tmp_path)
    assert len(source) == source.found == len(photos)
    assert source.classes == ()
    for index, photo in enumerate(photos):
        np.testing.assert_array_equal(source[index], photo["image"])
        assert source.name(index) == photo["name"]


def test_real_pairs_come_back_to_the_bit(pairs, pairs_dir):
    source = TfdsSource("restoration_pairs/default", "test", pairs_dir, kind="pairs")
    assert source.classes == ("dark", "darker")
    for index, pair in enumerate(pairs):
        element = source[index]
        assert element.keys() == {"lq", "gt", "label"}
        np.testing.assert_array_equal(element["lq"], pair["lq"])
        np.testing.assert_array_equal(element["gt"], pair["gt"])
        assert element["label"] == pair["label"]
        assert source.name(index) == pair["name"]
        assert source.recipe(index) == pair["recipe"]


@pytest.mark.parametrize("name", ["restoration_pairs", "restoration_pairs/default:1.0.0"])
@pytest.mark.parametrize("registered", [False, True])
def test_tfds_itself_reads_what_was_written(pairs, pairs_dir, name, registered):
    code = f"""
import tensorflow_datasets as tfds
if {registered}:
    from tpgdiff_jax.data.tfds import builders
known = tfds.list_builders(with_community_datasets=False)  # those would ask the network
assert ("restoration_pairs" in known) is {registered}
source = tfds.data_source({name!r}, split="test[1:]", data_dir={str(pairs_dir)!r})
print(len(source), source[0]["name"].decode(), source.dataset_info.features["label"].names)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"3 {pairs[1]['name']} ['dark', 'darker']\n"


def test_splits_are_added_and_never_replaced(pairs, pairs_dir):
    classes = ("dark", "darker")
    write_tfds(pairs_dir, "restoration_pairs", "train", pairs[:1], classes=classes)
    name = "restoration_pairs/default"
    assert len(TfdsSource(name, "train", pairs_dir, kind="pairs")) == 1
    assert len(TfdsSource(name, "test[:50%]", pairs_dir, kind="pairs")) == 2
    with pytest.raises(ValueError, match="holds the split 'test' already"):
        write_tfds(pairs_dir, "restoration_pairs", "test", pairs, classes=classes)
    with pytest.raises(ValueError, match=r"\['dark', 'darker'\], the new split \['x'\]"):
        write_tfds(pairs_dir, "restoration_pairs", "more", pairs, classes=("x",))


def test_an_interrupted_write_leaves_the_data_set_as_it_was(pairs, pairs_dir):
    def broken():
        yield pairs[0]
        raise RuntimeError("power cut")

    before = sorted(p.name for p in pairs_dir.rglob("*"))
    with pytest.raises(RuntimeError, match="power cut"):
        write_tfds(pairs_dir, "restoration_pairs", "train", broken(), classes=("dark", "darker"))
    assert sorted(p.name for p in pairs_dir.rglob("*")) == before
    assert len(TfdsSource("restoration_pairs", "test", pairs_dir, kind="pairs")) == 4


def test_incomplete_examples_are_refused(photos, tmp_path):
    with pytest.raises(ValueError, match="needs 'gt'"):
        write_tfds(tmp_path, "restoration_pairs", "test", [{"name": "a", "lq": b"x"}])
    with pytest.raises(ValueError, match="no examples"):
        write_tfds(tmp_path, "restoration_photos", "test", [])
    with pytest.raises(ValueError, match=r"'photos' is none of ours: \['restoration_pairs'"):
        write_tfds(tmp_path, "photos", "test", photos)


def test_pickled_copies_read_the_same(pairs_dir):
    source = TfdsSource("restoration_pairs/default", "test", pairs_dir, kind="pairs")
    again = pickle.loads(pickle.dumps(source))
    assert repr(again) == repr(source)
    assert str(pairs_dir) not in repr(source)
    np.testing.assert_array_equal(again[3]["gt"], source[3]["gt"])


def test_labels_follow_the_order_a_run_wants(pairs_dir):
    name = "restoration_pairs/default"
    source = TfdsSource(name, "test", pairs_dir, "pairs", classes=("rain", "darker", "dark"))
    assert [source[i]["label"] for i in range(4)] == [2, 1, 2, 1]


def test_any_other_data_set_can_be_read(photos, tmp_path):
    class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.0.0")

        def _info(self):
            features = {"picture": tfds.features.Image(), "kind": np.int64}
            features["grid"] = tfds.features.Tensor(shape=(4, 5, 3), dtype=np.uint8)
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager): ...
        def _generate_examples(self): ...

    builder = Foreign(data_dir=tmp_path, file_format="array_record")
    pathlib.Path(builder.data_dir).mkdir(parents=True)
    writer = tfds.core.SequentialWriter(builder.info, 10, file_format="array_record")
    writer.initialize_splits(["train"])
    grid = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    images = [encode_png(photos[0]["image"]), b"no image"]
    examples = [{"picture": image, "kind": 1, "grid": grid} for image in images]
    writer.add_examples({"train": examples})
    writer.close_all()

    source = TfdsSource("foreign", "train", tmp_path, image_key="picture")
    np.testing.assert_array_equal(source[0], photos[0]["image"])
    assert source.name(1) == "foreign[train][1]"
    assert source[1] is None
    assert source.report.items() == {"foreign[train][1]": "not an image, whatever its name says"}
    np.testing.assert_array_equal(
        TfdsSource("foreign", "train", tmp_path, image_key="grid")[1], grid
    )
    with pytest.raises(ValueError, match=r"no feature 'image' but \['grid', 'kind', 'picture'\]"):
        TfdsSource("foreign", "train", tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("restoration_pairs/default", "train"),
        ("restoration_pairs/other", "test"),
        ("no_such_set", "test"),
        ("mnist", "test"),
    ],
)
def test_what_is_not_there_is_one_clear_error(pairs_dir, name, split):
    with pytest.raises(
        ValueError, match=f"TFDS data set '{name}', split '{split}', cannot"
    ) as error:
        TfdsSource(name, split, pairs_dir, kind="pairs")
    assert len(str(error.value)) < 600


def test_without_tfds_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match="pip install tensorflow-datasets importlib_resources"):
        TfdsSource("mnist", "train")


def test_a_damaged_record_is_reported_and_the_others_read(pairs_dir):
    path = sorted(pairs_dir.rglob("*array_record-*"))[0]
    content = bytearray(path.read_bytes())
    content[content.find(b"\x89PNG") + 2000] ^= 255
    path.write_bytes(content)
    source = TfdsSource("restoration_pairs/default", "test", pairs_dir, kind="pairs")
    assert [source[i] is None for i in range(4)] == [True, False, False, False]
    assert source.report.items()["restoration_pairs/default[test][0]"].startswith("damaged record")
