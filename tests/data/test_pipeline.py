"""Training batches: reproducible, balanced, the same however they are split, stopped or resumed."""

import itertools
import multiprocessing
import os
import signal

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.data.degradations.mix import Mixture, degrade
from tpgdiff_jax.data.identity import fingerprint
from tpgdiff_jax.data.labels import OTHER
from tpgdiff_jax.data.pairs import PairFolder
from tpgdiff_jax.data.pipeline import random_crops, training_batches
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.reporting.errors import UserError

NAMES = ("noise", "blur", "haze")


def save(path, height, width, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(5):
        save(tmp_path / "photos" / f"{index}.png", 40 + index, 50, rng)
    return PhotoFolder(tmp_path / "photos", min_size=32, cache_mb=1)


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(1)
    for index in range(3):
        gt = tmp_path / "pairs" / "haze" / "GT" / f"{index}.png"
        save(gt, 36, 44, rng)
        lq = gt.parent.parent / "LQ" / gt.name
        lq.parent.mkdir(exist_ok=True)
        Image.fromarray(255 - np.asarray(Image.open(gt))).save(lq)
    return PairFolder(tmp_path / "pairs")


def batches(*sources, **changes):
    options = {"seed": 1, "crop_size": 32, "batch_size": 4, "mixture": Mixture(NAMES)}
    return iter(training_batches(sources, **(options | changes)))


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


def test_shapes_types_and_that_images_are_degraded(photos):
    batch = take(batches(photos), 1)[0]
    assert batch["gt"].shape == batch["lq"].shape == (4, 32, 32, 3)
    assert batch["gt"].dtype == batch["lq"].dtype == np.uint8
    assert batch["label"].dtype == np.int32
    assert (batch["gt"] != batch["lq"]).any(axis=(1, 2, 3)).all()


def test_every_example_carries_the_recipe_that_made_it(photos, pairs):
    mixture = Mixture(NAMES, max_mixed=3)
    for batch in take(batches(photos, mixture=mixture, multi_hot=True), 6):
        rows = zip(
            *(batch[k] for k in ("gt", "lq", "label", "severity", "recipe_seed")), strict=True
        )
        for gt, lq, label, severity, seed in rows:
            recipe = mixture.decode(severity, seed)
            np.testing.assert_array_equal(degrade(gt, recipe), lq)
            np.testing.assert_array_equal(mixture.multi_hot(recipe), label)
    found = take(batches(pairs), 1)[0]
    assert (found["recipe_seed"] == -1).all()
    assert not found["severity"].any()


def test_classes_come_in_equal_shares(photos):
    labels = np.concatenate([batch["label"] for batch in take(batches(photos), 9)])
    assert np.bincount(labels).tolist() == [12, 12, 12]


def test_mixtures_carry_a_label_for_every_degradation(photos):
    mixture = Mixture(NAMES, max_mixed=2)
    found = take(batches(photos, mixture=mixture, multi_hot=True), 9)
    labels = np.concatenate([batch["label"] for batch in found])
    assert labels.shape == (36, 3)
    assert labels.dtype == np.float32
    assert set(labels.sum(axis=1)) == {1.0, 2.0}


def test_a_share_of_the_examples_stays_clean_and_has_no_label(photos):
    mixture = Mixture(NAMES, clean_share=0.5)
    found = take(batches(photos, mixture=mixture, multi_hot=True), 20)
    clean = [(lq == gt).all() for b in found for gt, lq in zip(b["gt"], b["lq"], strict=True)]
    labels = np.concatenate([b["label"] for b in found])
    np.testing.assert_array_equal(labels.sum(1) == 0, clean)
    assert 0.3 < np.mean(clean) < 0.7
    with pytest.raises(ValueError, match=r"data\.clean_share.*multi-hot"):
        batches(photos, mixture=mixture)


def test_dark_renderings_are_degraded_too_but_never_lack_light(photos):
    mixture = Mixture(("noise", "low_light"))
    plain = take(batches(photos, mixture=mixture), 4)
    dark = take(batches(photos, mixture=mixture, dark_share=1.0), 4)
    for before, after in zip(plain, dark, strict=True):
        np.testing.assert_array_equal(before["label"], after["label"])
        for row, label in enumerate(before["label"]):
            darker = after["gt"][row].mean() < before["gt"][row].mean() - 5
            assert darker == (label == mixture.names.index("noise"))
            recipe = mixture.decode(after["severity"][row], after["recipe_seed"][row])
            np.testing.assert_array_equal(degrade(after["gt"][row], recipe), after["lq"][row])


def test_soft_renderings_are_never_blurred_too(photos):
    mixture = Mixture(("noise", "defocus"))
    plain = take(batches(photos, mixture=mixture), 4)
    soft = take(batches(photos, mixture=mixture, soft_share=1.0), 4)
    for before, after in zip(plain, soft, strict=True):
        np.testing.assert_array_equal(before["label"], after["label"])
        for row, label in enumerate(before["label"]):
            changed = (before["gt"][row] != after["gt"][row]).any()
            assert changed == (label == mixture.names.index("noise"))


def test_pale_renderings_are_never_hazy_nor_dark_too(photos):
    mixture = Mixture(("noise", "haze"))
    plain = take(batches(photos, mixture=mixture), 4)
    pale = take(batches(photos, mixture=mixture, pale_share=1.0), 4)
    dark_too = take(batches(photos, mixture=mixture, pale_share=1.0, dark_share=1.0), 4)
    for before, after, dark in zip(plain, pale, dark_too, strict=True):
        np.testing.assert_array_equal(before["label"], after["label"])
        for row, label in enumerate(before["label"]):
            changed = (before["gt"][row] != after["gt"][row]).any()
            is_noisy = label == mixture.names.index("noise")
            assert changed == is_noisy
            assert (dark["gt"][row] == after["gt"][row]).all() == is_noisy


def test_vivid_renderings_keep_label_and_recipe(photos):
    mixture = Mixture(("noise",))
    plain = take(batches(photos, mixture=mixture), 2)
    vivid = take(batches(photos, mixture=mixture, vivid_share=1.0), 2)
    for before, after in zip(plain, vivid, strict=True):
        assert (before["gt"] != after["gt"]).any()
        for name in ("label", "severity", "recipe_seed"):
            np.testing.assert_array_equal(before[name], after[name])


def test_workers_go_on_after_sigterm_which_the_whole_run_may_get(photos):
    expected = take(batches(photos), 12)
    iterator = batches(photos, workers=1)
    found = take(iterator, 2)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    assert_equal_batches(expected, found + take(iterator, 10))
    assert worker.is_alive()


def test_same_batches_whatever_the_threads_and_workers(photos):
    expected = take(batches(photos, read_threads=1, prefetch_mb=1), 6)
    assert_equal_batches(expected, take(batches(photos, read_threads=3), 6))
    for workers in (2, 4):
        assert_equal_batches(expected, take(batches(photos, workers=workers), 6))


def test_other_seed_other_batches(photos):
    first, second = take(batches(photos), 1)[0], take(batches(photos, seed=2), 1)[0]
    assert (first["gt"] != second["gt"]).any()


def test_epochs_draw_new_crops(photos):
    crops = np.concatenate([batch["gt"] for batch in take(batches(photos), 10)])
    distinct = {crop.tobytes() for crop in crops}
    assert len(distinct) > 35


def test_a_run_continues_bit_for_bit_far_into_the_sequence(photos):
    # After the manner of torchtitan's test of its data loader: far past the first epochs.
    small = {"crop_size": 8, "batch_size": 1, "mixture": Mixture(("noise",))}
    whole = take(batches(photos, **small), 2050 + 500)
    assert_equal_batches(whole[2050:], take(batches(photos, first_batch=2050, **small), 500))
    resumed = take(batches(photos, first_batch=2050, workers=2, **small), 50)
    assert_equal_batches(whole[2050:2100], resumed)


def test_processes_share_the_global_batch_and_may_change_in_number(photos):
    whole = take(batches(photos), 5)
    parts = [
        take(batches(photos, process_index=i, process_count=2, first_batch=2), 3) for i in range(2)
    ]
    for step in range(3):
        for name in ("gt", "lq", "label"):
            joined = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(joined, whole[2 + step][name])


def test_batch_that_cannot_be_divided_is_refused(photos):
    with pytest.raises(ValueError, match=r"data\.batch_size=4 .* 3 processes"):
        batches(photos, process_count=3)


def test_pairs_are_cropped_together_and_keep_their_class(pairs):
    for batch in take(batches(pairs), 3):
        np.testing.assert_array_equal(batch["lq"], 255 - batch["gt"])
        assert (batch["label"] == NAMES.index("haze")).all()


def test_pairs_that_no_class_describes_have_a_label_that_names_none(pairs, tmp_path):
    root = tmp_path / "pairs" / "haze"
    others = PairFolder(root, classes=NAMES, class_name=OTHER)
    (found,) = take(batches(others, multi_hot=True), 1)
    np.testing.assert_array_equal(found["label"], np.zeros((4, len(NAMES))))
    (found,) = take(batches(others), 1)
    np.testing.assert_array_equal(found["label"], [len(NAMES)] * 4)
    (named,) = take(batches(PairFolder(root, classes=NAMES)), 1)
    np.testing.assert_array_equal(named["lq"], found["lq"])


def test_pairs_of_a_mixture_name_all_of_it_where_labels_can(tmp_path, pairs):
    root = tmp_path / "pairs" / "haze"
    mixed = PairFolder(root, classes=NAMES, class_name="+".join(NAMES[1::-1]))
    (found,) = take(batches(mixed, multi_hot=True), 1)
    np.testing.assert_array_equal(found["label"], [[1, 1, *[0] * (len(NAMES) - 2)]] * 4)
    with pytest.raises(UserError, match=r"several degradations at once.*classification='multi'"):
        batches(mixed)


def test_sources_mix_by_their_weights(photos, pairs):
    found = take(batches(photos, pairs, source_weights=(1, 3)), 50)
    from_pairs = [
        (lq == 255 - gt).all() for b in found for lq, gt in zip(b["lq"], b["gt"], strict=True)
    ]
    assert np.mean(from_pairs) == pytest.approx(0.75, abs=0.03)


def test_every_source_meets_every_degradation_however_sources_alternate(photos, pairs):
    names = ("noise", "haze", "rain", "blur")  # an even number, two sources in turn
    both = batches(photos, pairs, source_weights=(1, 1), mixture=Mixture(names))
    made = [b["label"][b["recipe_seed"] >= 0] for b in take(both, 20)]
    assert np.bincount(np.concatenate(made)).tolist() == [10, 10, 10, 10]


def test_a_class_that_is_no_degradation_is_refused(pairs):
    with pytest.raises(ValueError, match=r"pairs of haze, which data\.degradations lacks: noise"):
        batches(pairs, mixture=Mixture(("noise",)))


def test_a_bad_photo_is_replaced_the_same_way_every_time(photos, tmp_path):
    photos = PhotoFolder(photos.folder)  # nothing kept decoded
    clean = take(batches(photos), 5)
    broken = tmp_path / "photos" / "2.png"
    broken.write_bytes(broken.read_bytes()[:1500])
    first, second = take(batches(photos), 5), take(batches(photos), 5)
    assert_equal_batches(first, second)
    # Only the examples of that photo are others: the place in the sequence stays the same.
    same = [
        (a == b).all()
        for x, y in zip(clean, first, strict=True)
        for a, b in zip(x["gt"], y["gt"], strict=True)
    ]
    assert 0 < np.mean(same) < 1
    assert "2.png" in photos.summary()


def test_when_all_are_bad_the_reason_is_given(photos, tmp_path):
    photos = PhotoFolder(photos.folder)
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(path.read_bytes()[:1500])
    words = r"100 images in a row cannot be read|None of the 5 photos .* is usable"
    with pytest.raises(ValueError, match=words):
        take(batches(photos), 1)


def test_what_is_bad_in_a_row_is_named(photos, tmp_path):
    photos = PhotoFolder(photos.folder)
    photos._bad = set(range(4))
    photos.report.add(photos.folder / "0.png", "truncated", photos.root)
    words = r"photos': 100 images in a row .*crop_size=64\. Reported: 0\.png \(truncated\)\."
    with pytest.raises(UserError, match=words):
        take(batches(photos, crop_size=64), 1)


def test_a_class_that_is_not_trained_is_named_with_its_folder(pairs):
    with pytest.raises(UserError, match=r"pairs' has pairs of haze, which .* noise\. Rename the"):
        batches(pairs, mixture=Mixture(("noise",)))


def test_crops_are_cut_mirrored_and_turned_alike():
    image = np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    seen = set()
    for seed in range(60):
        a, b = random_crops(np.random.default_rng(seed), (image, image + 1), 4)
        np.testing.assert_array_equal(a + 1, b)
        seen.add(a.tobytes())
    assert len(seen) > 40


def test_crops_of_a_share_of_the_photo_are_resized_and_stay_aligned():
    ramp = np.linspace(0, 250, 60, dtype=np.uint8)
    image = np.repeat(np.repeat(ramp[None, :, None], 40, 0), 3, 2)
    spans = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        a, b = random_crops(rng, (image, image), 24, (0.25, 1.0))
        assert a.shape == (24, 24, 3)
        np.testing.assert_array_equal(a, b)
        spans.append(int(a.max()) - int(a.min()))
    # Parts of a quarter of the area span about half of the ramp, nearly whole photos all of it.
    assert min(spans) < 170
    assert max(spans) > 200
    # The whole area at an aspect ratio of at least 3:4 is at least 42 of the 60 columns.
    whole, _ = random_crops(np.random.default_rng(0), (image, image), 24, (1.0, 1.0))
    assert int(whole.max()) - int(whole.min()) > 165


def test_the_fingerprint_tells_other_images(photos, pairs, tmp_path):
    before = fingerprint([photos])
    assert before["images"] == 5
    assert fingerprint([photos, pairs]) != before
    (tmp_path / "photos" / "4.png").rename(tmp_path / "photos" / "5.png")
    after = fingerprint([PhotoFolder(tmp_path / "photos")])
    assert after["images"] == 5
    assert after != before
