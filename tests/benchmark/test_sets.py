"""Test sets: matched by name, absent ones told, bad files listed, noise by name."""

import io
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.benchmark.finding import AbsentSetError, content_hash, open_set
from tpgdiff_jax.benchmark.presets import GROUPS, PRESETS, resolve
from tpgdiff_jax.benchmark.sets import SetSpec
from tpgdiff_jax.benchmark.settings import Variant
from tpgdiff_jax.benchmark.stamps import read_stamps
from tpgdiff_jax.benchmark.work import Task
from tpgdiff_jax.data.degradations.registry import DEGRADATIONS
from tpgdiff_jax.reporting.errors import UserError


def save(path, size=(40, 40), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(image).save(path)


def names(opened):
    return [item.name for item in opened.items]


def test_bad_pairs_are_listed_and_the_rest_is_scored(tmp_path):
    for name in ("good.png", "lonely.png", "wide.png", "corrupt.png"):
        save(tmp_path / "s/LQ" / name)
    for name in ("good.png", "corrupt.png"):
        save(tmp_path / "s/GT" / name)
    save(tmp_path / "s/GT/wide.png", (40, 50))
    save(tmp_path / "s/LQ/tiny.png", (12, 12))
    save(tmp_path / "s/GT/tiny.png", (12, 12))
    (tmp_path / "s/LQ/corrupt.png").write_bytes(b"no image")
    opened = open_set(SetSpec("s", "s", count=4), tmp_path)
    assert names(opened) == ["good.png"]
    reasons = {path.rsplit("/", 1)[1]: reason for path, reason in opened.skipped.items()}
    assert reasons["lonely.png"] == "no ground truth has its name"
    assert reasons["wide.png"] == "40x40, but its ground truth is 50x40"
    assert reasons["corrupt.png"] == "not an image, whatever its name says"
    assert "too small" in reasons["tiny.png"]
    assert opened.remarks == ["1 images instead of 4: not the whole benchmark"]


def test_truths_without_a_degraded_image_are_told(tmp_path):
    save(tmp_path / "s/LQ/a.png")
    for name in "abcde":
        save(tmp_path / f"s/GT/{name}.png")
    opened = open_set(SetSpec("s", "s"), tmp_path)
    assert names(opened) == ["a.png"]
    assert opened.remarks == ["4 ground truths have no degraded image: b.png, c.png, d.png, ..."]


def test_an_absent_set_says_what_is_expected_and_where_to_get_it(tmp_path):
    with pytest.raises(AbsentSetError, match=r"gopro/test/\*/blur.*seungjunnah"):
        open_set(PRESETS["gopro"], tmp_path)


@pytest.mark.parametrize(
    ("preset", "files", "expected"),
    [
        (
            "gopro",
            [f"gopro/test/{scene}/{kind}/1.png" for scene in "AB" for kind in ("blur", "sharp")],
            ["A/1.png", "B/1.png"],
        ),
        ("rain100l", ["rain100l/rain/rain-1.png", "rain100l/norain/norain-1.png"], ["rain-1.png"]),
        (
            "sots_outdoor",
            ["sots_outdoor/hazy/1_0.8_0.2.png", "sots_outdoor/gt/1.png"],
            ["1_0.8_0.2.png"],
        ),
        ("cdd11_low_haze", ["cdd11/test/low_haze/1.png", "cdd11/test/clear/1.png"], ["1.png"]),
        ("lol", ["lol/eval15/LQ/1.png", "lol/eval15/GT/1.png"], ["1.png"]),
        ("bsd68_25", ["bsd68/1.png", "bsd68/2.png"], ["1.png", "2.png"]),
    ],
)
def test_published_layouts_are_understood(tmp_path, preset, files, expected):
    for index, file in enumerate(files):
        save(tmp_path / file, seed=index)
    opened = open_set(PRESETS[preset], tmp_path)
    assert names(opened) == expected
    assert not opened.skipped
    for item in opened.items:
        lq, gt = item.load(seed=1)
        assert lq.shape == gt.shape == (40, 40, 3)


def test_hidden_folders_hold_no_images_of_a_set(tmp_path):
    for scene in ("A", ".AppleDouble"):
        for kind in ("blur", "sharp", "blur/.thumbs"):
            save(tmp_path / f"gopro/test/{scene}/{kind}/1.png")
    assert names(open_set(PRESETS["gopro"], tmp_path)) == ["A/1.png"]


def test_every_group_and_the_papers_sets_have_presets():
    assert all(set(group) <= PRESETS.keys() for group in GROUPS.values())
    assert len(GROUPS["single"]) == 9
    assert len(GROUPS["cdd11"]) == 11
    for name in ("lol", "gopro", "rain100h", "sots_indoor", "kodak24_50", "mcmaster_15", "poled"):
        assert PRESETS[name].source
    assert sum(PRESETS[name].count for name in GROUPS["five"]) == 15 + 1111 + 100 + 500 + 68


def test_a_classifier_has_a_right_answer_for_every_preset():
    for spec in PRESETS.values():
        answers = set(re.split(r"[|+]", spec.degradation))
        assert answers <= DEGRADATIONS.keys(), spec.name


def noisy(tmp_path, files, **fields):
    for file, size in files.items():
        save(tmp_path / "clean" / file, size)
    fields = {"gt": "", "sigma": 25.0, "protocol": "promptir"} | fields
    spec = SetSpec("n", "clean", "clean", **fields)
    return {item.name: item.load(seed=1) for item in open_set(spec, tmp_path).items}


def test_noise_follows_the_name_alone(tmp_path):
    files = {"b.png": (48, 64)}
    alone = noisy(tmp_path / "1", files)["b.png"][0]
    among = noisy(tmp_path / "2", {"a.png": (32, 32), **files})["b.png"][0]
    np.testing.assert_array_equal(alone, among)
    other = noisy(tmp_path / "3", {"c.png": (48, 64)})["c.png"][0]
    assert (other != alone).any()


def test_the_common_stream_is_that_of_the_papers_loop(tmp_path):
    files = {"a.png": (37, 40), "b.png": (48, 32), "c.png": (17, 21)}
    made = {
        sigma: noisy(tmp_path, files, sigma=float(sigma), seed_rule="sequence")
        for sigma in (50, 25, 15, 30)  # each set is opened alone, in any order
    }
    # As PromptIR's test program does it: seeded once, then one loop per sigma.
    stream = np.random.RandomState(0)
    for sigma in (15, 25, 50):
        for name in sorted(files):
            lq, clean = made[sigma][name]
            noise = stream.randn(*clean.shape)
            expected = np.clip(clean + noise * sigma, 0, 255).astype(np.uint8)
            np.testing.assert_array_equal(lq, expected)
    # A sigma that has no published place starts the stream anew.
    lq, clean = made[30]["a.png"]
    noise = np.random.RandomState(0).randn(*clean.shape)
    np.testing.assert_array_equal(lq, np.clip(clean + noise * 30, 0, 255).astype(np.uint8))


def test_threads_that_read_together_get_each_image_its_own_part_of_the_common_stream(tmp_path):
    for index in range(8):
        save(tmp_path / f"clean/{index}.png", (320, 320), seed=index)
    spec = SetSpec("n", "clean", "clean", gt="", sigma=50.0, seed_rule="sequence")
    one_by_one = [item.load(seed=1)[0] for item in open_set(spec, tmp_path).items]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda item: item.load(seed=1)[0], open_set(spec, tmp_path).items))
    np.testing.assert_array_equal(together, one_by_one)


def test_in_a_common_stream_an_image_more_changes_what_comes_after(tmp_path):
    def stamps():
        spec = SetSpec("n", "clean", "clean", gt="", sigma=25.0, seed_rule="sequence")
        tasks = [Task(item, Variant()) for item in open_set(spec, tmp_path).items]
        found = read_stamps(tasks, None)
        return {task.item.name: stamp for task, stamp in zip(tasks, found, strict=True)}

    for index, name in enumerate(("clean/a.png", "clean/c.png")):
        save(tmp_path / name, seed=index)
    before = stamps()
    assert before == stamps()
    save(tmp_path / "clean/b.png")
    after = stamps()
    assert after["c.png"] != before["c.png"]
    assert after["c.png"]["gt"] == before["c.png"]["gt"]


def test_other_pictures_are_noticed_by_their_hash(tmp_path):
    save(tmp_path / "s/GT/1.png")
    save(tmp_path / "s/LQ/1.png", seed=1)
    opened = open_set(SetSpec("s", "s"), tmp_path)
    right = content_hash(opened.items)
    assert not open_set(SetSpec("s", "s", sha256=right), tmp_path).remarks
    save(tmp_path / "s/GT/1.png", seed=2)
    assert "other pictures" in open_set(SetSpec("s", "s", sha256=right), tmp_path).remarks[0]


def test_unpaired_images_have_no_truth(tmp_path):
    save(tmp_path / "wild/1.png")
    opened = open_set(SetSpec("w", "wild", "unpaired", lq=""), tmp_path)
    assert opened.items[0].load(seed=1)[1] is None


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("lool", "'lool' is no preset"),
        ({"name": "a"}, "lacks folder"),
        ({"name": "a", "folder": "a", "colour": 1}, "'colour' is no field"),
        ({"name": "a", "folder": "a", "protocol": "y"}, "protocol='y'"),
        ({"name": "a", "folder": "a", "layout": "heap"}, "layout='heap'"),
        ({"name": "a", "folder": "a", "sigma": 25.0}, "layout='clean'"),
        ({"name": "a", "folder": "a", "layout": "clean", "recipe": "hail"}, "'hail'"),
        ({"name": "a/b", "folder": "a"}, "'a/b'"),
        ({"name": "a", "folder": "a", "lq": "/a/blur"}, "'a': lq='/a/blur': expected a folder rel"),
        ({"name": "a", "folder": "a", "gt": "GT|**/sharp"}, r"gt='GT\|\*\*/sharp': expected a fol"),
        ({"name": "..", "folder": "a"}, r"'\.\.': its name may hold .* begin with no dot"),
    ],
)
def test_wrong_entries_are_named(entry, words):
    with pytest.raises(ValueError, match=words):
        resolve((entry,))


def test_two_sets_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two different sets 'lol'"):
        resolve(("lol", {"preset": "lol", "folder": "elsewhere"}))


@pytest.mark.parametrize(
    "change", [{"sigma": 50.0}, {"recipe": "rain:2"}, {"jpeg_quality": 10}, {"layout": "pairs"}]
)
def test_a_preset_with_other_pictures_has_a_name_of_its_own(change):
    entry = {"preset": "bsd68_25"} | change
    ((key, value),) = change.items()
    words = f"{key}={value!r} makes other pictures than the preset 'bsd68_25' has; give"
    for taken in ({}, {"name": "bsd68_25"}, {"name": "lol"}):
        with pytest.raises(UserError, match=words):
            resolve((entry | taken,))
    if "layout" not in change:
        (spec,) = resolve((entry | {"name": "mine"},))
        assert (spec.name, spec.title) == ("mine", "")
        (spec,) = resolve((entry | {"name": "mine", "title": "Mine"},))
        assert spec.title == "Mine"


@pytest.mark.parametrize("entry", [{"folder": "mine"}, {"preset": "gopro"}])
def test_only_a_preset_has_its_name(entry):
    with pytest.raises(UserError, match="called as the preset 'lol'; choose another name"):
        resolve((entry | {"name": "lol"},))


def test_a_preset_elsewhere_stays_one():
    (spec,) = resolve(({"preset": "bsd68_25", "folder": "elsewhere", "sigma": 25.0},))
    assert spec.title == PRESETS["bsd68_25"].title


def test_clean_photos_become_jpegs_of_just_one_quality(tmp_path):
    save(tmp_path / "s/0.png")
    specs = [
        SetSpec("s", "s", "clean", gt="", jpeg_quality=quality) for quality in (10, 30, 90)
    ] + [SetSpec("s", "s", "clean", gt="", recipe="jpeg:0")]
    items = [open_set(spec, tmp_path).items[0] for spec in specs]
    harm = [np.abs(np.subtract(*item.load(1), dtype=float)).mean() for item in items]
    assert harm[0] > harm[1] > harm[2] > harm[3] == 0
    assert items[0].recipe(1) == {"jpeg_quality": 10}
    buffer = io.BytesIO()
    Image.fromarray(items[0].load(1)[1]).save(buffer, "JPEG", quality=10, subsampling="4:2:0")
    np.testing.assert_array_equal(items[0].load(1)[0], np.asarray(Image.open(buffer)))
    with pytest.raises(ValueError, match="jpeg_quality=101: expected 1 to 100"):
        SetSpec("s", "s", "clean", jpeg_quality=101)
    with pytest.raises(ValueError, match="sigma, recipe or jpeg_quality go with layout='clean'"):
        SetSpec("s", "s", jpeg_quality=10)
