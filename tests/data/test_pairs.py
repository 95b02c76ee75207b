"""Pairs of degraded photos and ground truths, matched by name."""

import os
import pickle
import re
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tpgdiff_jax.data.matching import match_names
from tpgdiff_jax.data.open_source import open_source
from tpgdiff_jax.data.pairs import PairFolder
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.data.training_data import parse_source
from tpgdiff_jax.reporting.errors import UserError

_STEMS = st.from_regex(r"[ab]{1,2}(_[a1]{1,2}){0,2}", fullmatch=True)
_NAMES = st.lists(
    st.builds(lambda stem, suffix: stem + suffix, _STEMS, st.sampled_from([".png", ".jpg"])),
    max_size=8,
    unique=True,
)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


@pytest.mark.parametrize(
    ("lq", "gt"),
    [
        ("a.png", "a.png"),
        ("a.jpg", "a.png"),
        ("1400_3.png", "1400.png"),
        ("x_rain.png", "x.png"),
        ("0001_0.8_0.2.jpg", "0001.png"),
        ("im_1_x4.png", "im_1.png"),
        ("night/a_1.png", "night/a.png"),
        ("photo of a cat_low-light.png", "photo of a cat.png"),
    ],
)
def test_names_that_belong_together(lq, gt):
    assert match_names([lq, "zz.png"], [gt]) == (
        [(lq, gt)],
        {"LQ/zz.png": "no ground truth has its name"},
    )


@pytest.mark.parametrize(
    ("lq", "gt"),
    [
        ("a.png", "b.png"),
        ("1400.png", "1400_3.png"),  # the truth's name is never shortened
        ("day/a.png", "night/a.png"),
        ("_1.png", "_2.png"),
        ("a1.png", "a.png"),
        ("A.png", "a.png"),
    ],
)
def test_names_that_do_not(lq, gt):
    pairs, unmatched = match_names([lq], [gt])
    assert pairs == []
    assert set(unmatched) == {f"LQ/{lq}", f"GT/{gt}"}


def test_own_name_comes_before_a_shortened_one():
    assert match_names(["a_1.png"], ["a.png", "a_1.png"]) == (
        [("a_1.png", "a_1.png")],
        {"GT/a.png": "no degraded image has its name"},
    )


def test_one_truth_may_serve_several():
    pairs, unmatched = match_names(["a_2.png", "a_1.png"], ["a.png"])
    assert pairs == [("a_1.png", "a.png"), ("a_2.png", "a.png")]
    assert not unmatched


def test_two_files_of_one_stem_are_ambiguous():
    assert match_names(["a_1.png"], ["a.png", "a.jpg"]) == (
        [],
        {
            "GT/a.jpg": "ambiguous: a.png has the same stem",
            "GT/a.png": "ambiguous: a.jpg has the same stem",
            "LQ/a_1.png": "ambiguous: may belong to a.jpg or a.png",
        },
    )
    pairs, unmatched = match_names(["a.png", "a.jpg"], ["a.png"])
    assert pairs == []
    assert set(unmatched) == {"GT/a.png", "LQ/a.jpg", "LQ/a.png"}


@given(_NAMES, _NAMES, st.randoms())
def test_order_of_the_names_does_not_matter(lq_names, gt_names, random):
    shuffled_lq, shuffled_gt = list(lq_names), list(gt_names)
    random.shuffle(shuffled_lq)
    random.shuffle(shuffled_gt)
    assert match_names(lq_names, gt_names) == match_names(shuffled_lq, shuffled_gt)


@given(_NAMES, _NAMES)
def test_every_name_is_used_or_listed_and_pairs_share_their_stem(lq_names, gt_names):
    pairs, unmatched = match_names(lq_names, gt_names)
    used_lq, used_gt = [lq for lq, _ in pairs], {gt for _, gt in pairs}
    assert len(set(used_lq)) == len(used_lq)
    listed = {f"LQ/{name}" for name in used_lq} | {f"GT/{name}" for name in used_gt}
    assert not listed & unmatched.keys()
    everything = {f"LQ/{name}" for name in lq_names} | {f"GT/{name}" for name in gt_names}
    assert listed | unmatched.keys() == everything
    for lq, gt in pairs:
        assert _stem(lq) == _stem(gt) or _stem(lq).startswith(f"{_stem(gt)}_")


@given(st.lists(st.text(string.ascii_lowercase, min_size=1), min_size=1, unique=True))
def test_never_by_position(stems):
    pairs, unmatched = match_names(
        [f"{stem}.png" for stem in stems], [f"{stem}0.png" for stem in stems]
    )
    assert not pairs
    assert len(unmatched) == 2 * len(stems)


@pytest.fixture
def make_pairs(tmp_path):
    """`make_pairs({"noise/LQ/a.png": (h, w), ...})` -> a folder with these random images."""
    rng = np.random.default_rng(0)

    def make(sizes):
        for name, size in sizes.items():
            path = tmp_path / "pairs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
        return tmp_path / "pairs"

    return make


@pytest.fixture
def classes_folder(make_pairs):
    """Two classes in the released program's layout, with one of each kind of trouble."""
    size = (40, 48)
    root = make_pairs(
        {
            "rain/LQ/a_1.png": size,
            "rain/LQ/a_2.jpg": size,
            "rain/GT/a.png": size,
            "rain/LQ/lonely.png": size,
            "rain/GT/unused.png": size,
            "noise/LQ/b.png": size,
            "noise/GT/b.png": size,
            "noise/LQ/turned.png": (48, 40),
            "noise/GT/turned.png": size,
            "noise/LQ/tiny.png": (8, 8),
            "noise/GT/tiny.png": (8, 8),
            "noise/LQ/gone.png": size,
            "noise/GT/gone.png": size,
        }
    )
    (root / "noise/GT/gone.png").write_bytes(b"")
    return root


def test_released_layout_is_read_and_trouble_listed(classes_folder):
    pairs = PairFolder(classes_folder, min_size=32)
    assert pairs.classes == ("noise", "rain")
    assert [(pairs.name(i), pairs[i]["label"]) for i in range(len(pairs))] == [
        ("noise/LQ/b.png", 0),
        ("rain/LQ/a_1.png", 1),
        ("rain/LQ/a_2.jpg", 1),
    ]
    bad = pairs.report.items().items()
    assert {name.removeprefix(f"{classes_folder}/"): reason for name, reason in bad} == {
        "noise/GT/gone.png": "empty file (0 bytes)",
        "noise/LQ/gone.png": "its ground truth noise/GT/gone.png cannot be used",
        "noise/LQ/tiny.png": "8x8 is smaller than the 32 pixels that data.crop_size or scores need",
        "noise/LQ/turned.png": "40x48, but its ground truth noise/GT/turned.png is 48x40",
        "rain/LQ/lonely.png": "no ground truth has its name",
    }
    assert pairs.found == 12
    said = pairs.summary()
    assert said.startswith(f"3 pairs in {classes_folder}; skipped 5: ")
    assert said.endswith("; 1 ground truths have no degraded image: rain/GT/unused.png")


def test_truths_without_a_degraded_image_are_told_and_stop_no_run(make_pairs, caplog):
    """As where one folder of truths serves several sets; no file is bad."""
    names = ["LQ/a.png", *(f"GT/{letter}.png" for letter in "abcde")]
    pairs = PairFolder(make_pairs(dict.fromkeys(names, (9, 9))))
    pairs.report.check(pairs.found, max_share=0)
    assert not caplog.records
    told = "4 ground truths have no degraded image: GT/b.png, GT/c.png, GT/d.png, ..."
    assert pairs.summary() == f"1 pairs in {pairs.root}; {told}"


def test_images_are_those_of_the_files(classes_folder):
    pairs = PairFolder(classes_folder, min_size=32)
    pair = pairs[0]
    for key in ("lq", "gt"):
        file = Image.open(classes_folder / "noise" / key.upper() / "b.png")
        np.testing.assert_array_equal(pair[key], np.asarray(file))
    again = pickle.loads(pickle.dumps(pairs))
    assert repr(again) == repr(pairs)
    np.testing.assert_array_equal(again[0]["lq"], pair["lq"])


def test_one_folder_of_pairs_is_one_class(make_pairs):
    root = make_pairs({"LQ/a.png": (9, 9), "GT/a.png": (9, 9)})
    assert PairFolder(root).classes == ("pairs",)
    assert PairFolder(root, class_name="rain").classes == ("rain",)
    pairs = PairFolder(root, class_name="rain", classes=("noise", "rain"))
    assert pairs.classes == ("noise", "rain")
    assert pairs[0]["label"] == 1


def test_an_unknown_class_is_refused(classes_folder):
    assert PairFolder(classes_folder, classes=("rain", "haze", "noise"))[0]["label"] == 2
    with pytest.raises(ValueError, match=r"class 'rain', which is not among \['noise'\]"):
        PairFolder(classes_folder, classes=("noise",))
    (classes_folder / "rain").rename(classes_folder / "rainy")
    words = r"class 'rainy', which .*\]; rename its folder, or .* pairs:FOLDER\?class_name=NAME"
    with pytest.raises(UserError, match=words):
        PairFolder(classes_folder, classes=("noise", "rain"))
    with pytest.raises(UserError, match=r"its own classes, noise, rainy; leave out .*='rain'"):
        PairFolder(classes_folder, class_name="rain")


@pytest.mark.parametrize("key", ["", "class_name=blur", "lq=blur&gt=sharp&class_name=blur"])
def test_scenes_that_were_taken_for_classes_become_one_by_what_the_error_says(make_pairs, key):
    sides = ("A/blur", "A/sharp", "B/blur", "B/sharp")
    root = make_pairs({f"{side}/1.png": (9, 9) for side in sides})
    with pytest.raises(UserError, match="all of them one class: pairs:") as refused:
        open_source(parse_source(f"pairs:{root}?{key}".rstrip("?")), classes=("noise", "blur"))
    said = re.search(r"pairs:/\S+class_name=\w+", str(refused.value)).group()
    pairs = open_source(parse_source(said.replace("NAME", "blur")), classes=("noise", "blur"))
    assert [pairs[index]["label"] for index in range(len(pairs))] == [1, 1]


def test_truncated_files_are_dropped_when_read(make_pairs):
    names = ["LQ/a.png", "GT/a.png", "LQ/b.png", "GT/b.png"]
    root = make_pairs(dict.fromkeys(names, (40, 40)))
    path = root / "GT" / "b.png"
    path.write_bytes(path.read_bytes()[:-1000])
    pairs = PairFolder(root, report=SkipReport())
    assert pairs[0] is not None
    assert pairs[1] is None
    assert pairs.report.items() == {str(path): "truncated"}


def test_other_layouts_are_one_clear_error(make_pairs, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        PairFolder(tmp_path / "missing")
    root = make_pairs({"one/a.png": (9, 9), "two/a.png": (9, 9)})
    with pytest.raises(ValueError, match=r"neither LQ and GT nor CLASS/LQ.*but one, two"):
        PairFolder(root)
    (root / "rain" / "LQ").mkdir(parents=True)
    (root / "rain" / "GT").mkdir()
    with pytest.raises(ValueError, match="no usable pair"):
        PairFolder(root)


@pytest.mark.parametrize("sides", [("/d/blur", "/d/sharp"), ("**/blur", "**/sharp"), ("", "a**b")])
def test_sides_lie_in_the_folder_at_one_level_each(make_pairs, sides):
    root = make_pairs({"blur/a.png": (9, 9), "x/sharp/a.png": (9, 9)})
    with pytest.raises(UserError, match=r"[lg][qt]='.*': expected a folder relative to that of"):
        PairFolder(root, lq=sides[0], gt=sides[1])
    with pytest.raises(UserError, match=r"lq='' is gt, too; name two"):
        PairFolder(root, lq="", gt="")


def test_a_side_may_be_the_folder_itself_or_one_of_several(make_pairs):
    root = make_pairs({"a.png": (9, 9), "clean/a.png": (9, 9)})
    pairs = PairFolder(root, lq="", gt="sharp|clean")
    assert [pair[:2] for pair in pairs.pairs] == [("a.png", "clean/a.png")]


def test_a_class_without_ground_truths_is_reported(make_pairs):
    size = (9, 9)
    root = make_pairs({"a/LQ/1.png": size, "a/GT/1.png": size, "b/LQ/1.png": size})
    pairs = PairFolder(root)
    assert pairs.classes == ("a",)
    assert pairs.report.items() == {str(root / "b"): "a folder without LQ and GT"}
