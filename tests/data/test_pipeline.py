"""Training batches: reproducible, resumable, balanced, independent of how they are split."""

import itertools

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.data.pipeline import training_batches
from tpgdiff_jax.data.sources import PhotoFolder

NAMES = ("noise", "blur", "haze")


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(5):
        image = rng.integers(0, 256, (40 + index, 50, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    return PhotoFolder(tmp_path, min_size=32)


def batches(photos, **changes):
    options = {"seed": 1, "crop_size": 32, "batch_size": 4, "degradations": NAMES}
    return iter(training_batches(photos, **(options | changes)))


def take(iterator, count):
    return [
        {name: np.array(value) for name, value in batch.items()}
        for batch in itertools.islice(iterator, count)
    ]


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for name in ("gt", "lq", "label"):
            np.testing.assert_array_equal(a[name], b[name])


def test_shapes_types_and_that_images_are_harmed(photos):
    batch = take(batches(photos), 1)[0]
    assert batch["gt"].shape == batch["lq"].shape == (4, 32, 32, 3)
    assert batch["gt"].dtype == batch["lq"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert (batch["gt"] != batch["lq"]).any(axis=(1, 2, 3)).all()


def test_classes_come_in_equal_shares(photos):
    labels = np.concatenate([batch["label"] for batch in take(batches(photos), 9)])
    assert np.bincount(labels).tolist() == [12, 12, 12]


def test_same_seed_same_batches_whatever_the_threads(photos):
    first = take(batches(photos, read_threads=1, prefetch_batches=1), 6)
    assert_equal_batches(first, take(batches(photos, read_threads=3, prefetch_batches=4), 6))


def test_other_seed_other_batches(photos):
    first, second = take(batches(photos), 1)[0], take(batches(photos, seed=2), 1)[0]
    assert (first["gt"] != second["gt"]).any()


def test_epochs_draw_new_crops(photos):
    crops = np.concatenate([batch["gt"] for batch in take(batches(photos), 10)])
    distinct = {crop.tobytes() for crop in crops}
    assert len(distinct) > 35


def test_restored_iterator_continues_with_the_same_batches(photos):
    iterator = batches(photos)
    take(iterator, 3)
    state = iterator.get_state()
    expected = take(iterator, 4)
    fresh = batches(photos)
    fresh.set_state(state)
    assert_equal_batches(expected, take(fresh, 4))


def test_processes_share_the_global_batch(photos):
    whole = take(batches(photos), 3)
    parts = [take(batches(photos, process_index=i, process_count=2), 3) for i in range(2)]
    for step in range(3):
        for name in ("gt", "lq", "label"):
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, whole[step][name])


def test_batch_that_cannot_be_divided_is_refused(photos):
    with pytest.raises(ValueError, match=r"data\.batch_size=4 .* 3 processes"):
        batches(photos, process_count=3)


def test_bad_photo_is_dropped_without_stopping(photos, tmp_path):
    broken = tmp_path / "2.png"
    broken.write_bytes(broken.read_bytes()[:1500])
    found = take(batches(photos), 5)
    assert len(found) == 5
    assert [path.name for path in photos.skipped] == ["2.png"]
