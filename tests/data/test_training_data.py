"""A configuration's training images: every source opened, weighed and accounted for."""

import pytest
from PIL import Image

from tpgdiff_jax.data.training_data import folder_or_source, open_training_data, parse_source
from tpgdiff_jax.reporting.errors import UserError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("photos:/data/clean", {"kind": "photos", "path": "/data/clean"}),
        ("pairs:/data/rain*0.5", {"kind": "pairs", "path": "/data/rain", "weight": 0.5}),
        (
            "tfds_photos:/data/tfds::coco/2017@train[:90%]*2",
            {
                "kind": "tfds_photos",
                "path": "/data/tfds",
                "name": "coco/2017",
                "split": "train[:90%]",
                "weight": 2.0,
            },
        ),
        ("record_pairs:C:/a b/*.array_record", None),
        ("photos:/x/u@corp::a/b", {"kind": "photos", "path": "/x/u@corp::a/b"}),
        (
            "pairs:/data/gopro?lq=*/blur&gt=*/sharp&class_name=blur*2",
            {
                "kind": "pairs",
                "path": "/data/gopro",
                "lq": "*/blur",
                "gt": "*/sharp",
                "class_name": "blur",
                "weight": 2.0,
            },
        ),
        (
            "pairs:/d?gt_rename=_GT->_hazy&centre_crop=yes",
            {"kind": "pairs", "path": "/d", "gt_rename": ("_GT", "_hazy"), "centre_crop": True},
        ),
    ],
)
def test_sources_are_written_as_text(text, spec):
    if spec is None:
        spec = {"kind": "record_pairs", "path": "C:/a b/*.array_record"}
    assert parse_source(text) == spec


@pytest.mark.parametrize("text", ["/data/clean", "photos:", "", "tfds_photos:/data::coco"])
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match=r"is not of the form KIND:PATH"):
        parse_source(text)


@pytest.mark.parametrize("name", ["photos", "pairs", "tfds_photos", "s3://bucket/photos"])
def test_a_folder_may_be_called_like_a_kind_of_source(name):
    key = "data.eval_folder"
    assert folder_or_source(name, key) == {"kind": "photos", "path": name}
    assert folder_or_source(f"pairs:{name}", key) == {"kind": "pairs", "path": name}


def test_folder_and_further_sources_come_together(tiny_config, photo_folder):
    tiny_config.data.train_sources = (f"photos:{photo_folder}",)
    data = open_training_data(tiny_config, None)
    assert len(data.sources) == 2
    assert data.fingerprint["images"] == 6
    assert data.weights == ()
    assert "3 photos" in data.summary()


def test_all_sources_together_keep_no_more_photos_than_they_may(tiny_config, photo_folder):
    for number in range(4):  # 0.75 MiB each
        Image.new("RGB", (512, 512)).save(photo_folder / f"large_{number}.png")
    tiny_config.data.cache_mb = 4
    tiny_config.data.train_sources = (f"photos:{photo_folder}",) * 3
    sources = open_training_data(tiny_config, None).sources
    for source in sources:
        for index in range(len(source)):
            assert source[index] is not None
    kept = [image for source in sources for image in source._cache.values()]
    assert len(kept) > 3
    assert sum(image.nbytes for image in kept) <= 4 << 20


def test_weights_are_given_for_all_or_none(tiny_config, photo_folder):
    tiny_config.data.train_folder = ""
    tiny_config.data.train_sources = (f"photos:{photo_folder}*2", f"photos:{photo_folder}*1")
    assert open_training_data(tiny_config, None).weights == (2.0, 1.0)
    tiny_config.data.train_sources = (f"photos:{photo_folder}*2", f"photos:{photo_folder}")
    with pytest.raises(UserError, match=r"give every source a weight .*; photos:.* has none"):
        open_training_data(tiny_config, None)
    tiny_config.data.train_folder = str(photo_folder)
    tiny_config.data.train_sources = (f"photos:{photo_folder}*0.5",)
    words = r"train_folder has none; write that as photos:.*\*NUMBER in train_sources"
    with pytest.raises(UserError, match=words):
        open_training_data(tiny_config, None)


@pytest.mark.parametrize("weight", ["0", "0.0", "-1", "1.2.3"])
def test_weights_are_numbers_above_0(weight):
    with pytest.raises(UserError, match=rf"'photos:/d\*{weight}': its weight '{weight}' is no"):
        parse_source(f"photos:/d*{weight}")


def test_no_source_at_all_is_refused(tiny_config):
    tiny_config.data.train_folder = ""
    with pytest.raises(ValueError, match=r"config\.data\.train_folder .* are empty"):
        open_training_data(tiny_config, None)


def test_too_many_bad_files_stop_the_run(tiny_config, photo_folder, tmp_path):
    (photo_folder / "bad.png").write_bytes(b"no image")
    data = open_training_data(tiny_config, tmp_path / "skipped.jsonl")
    assert "bad.png" in data.summary()
    assert "bad.png" in (tmp_path / "skipped.jsonl").read_text()
    data.check(0.25)
    with pytest.raises(ValueError, match=r"1 of 4 files .* data\.max_bad_share=0\.2 .*bad\.png"):
        data.check(0.2)
