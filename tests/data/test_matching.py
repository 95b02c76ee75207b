"""Published sets as published: their names match, and what does not match says what was found."""

import unicodedata

import numpy as np
import pytest

from tpgdiff_jax.benchmark.finding import open_set
from tpgdiff_jax.benchmark.presets import PRESETS
from tpgdiff_jax.benchmark.sets import SetSpec
from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.data.matching import match_names
from tpgdiff_jax.data.open_source import open_source
from tpgdiff_jax.data.pairs import PairFolder
from tpgdiff_jax.data.training_data import parse_source

PUBLISHED = [  # degraded image, its truth, a truth beside it
    ("01_hazy.png", "01_GT.png", "02_GT.png"),
    ("0_rain.png", "0_clean.png", "10_clean.png"),
    ("0001_NOISY_SRGB_010.PNG", "0001_GT_SRGB_010.PNG", "0001_GT_SRGB_011.PNG"),
    ("low00690.png", "normal00690.png", "normal00691.png"),
    ("rain-001.png", "norain-001.png", "norain-002.png"),
    ("image_00000000_source.png", "image_00000000_target.png", "image_00000001_target.png"),
    ("1400_1.png", "1400.png", "1401.png"),
    ("0001_0.8_0.2.jpg", "0001.png", "0002.png"),
    ("000001.png", "000001.png", "000002.png"),
    ("snow_00001.jpg", "00001.jpg", "00002.jpg"),
    ("im_0001_s80_a04.png", "im_0001.png", "im_0002.png"),
]


@pytest.mark.parametrize(("lq", "gt", "other"), PUBLISHED)
def test_names_of_published_sets_match(lq, gt, other):
    pairs, unmatched = match_names([lq], [other, gt])
    assert pairs == [(lq, gt)]
    assert list(unmatched) == [f"GT/{other}"]


def test_words_are_left_out_only_where_one_truth_remains():
    pairs, unmatched = match_names(["1_rain.png"], ["1_clean.png", "1_gt.png"])
    assert pairs == []
    assert "ambiguous: may belong to 1_clean.png or 1_gt.png" in unmatched["LQ/1_rain.png"]
    assert match_names(["1_rain.png"], ["1_clean.png", "1.png"])[0] == [("1_rain.png", "1.png")]
    # A name that is nothing but a word stays one.
    assert match_names(["rain.png"], ["clean.png"])[0] == []
    assert match_names(["low.png"], ["low.jpg"])[0] == [("low.png", "low.jpg")]


def test_nothing_is_shortened_while_a_truth_has_the_whole_name():
    numbers = ("", "_2", "_3")
    lq, gt = ([f"night{word}{n}.png" for n in numbers] for word in ("_low", ""))
    assert match_names(lq, gt) == (list(zip(lq, gt, strict=True)), {})
    lq, gt = ([f"a{word}{n}.png" for n in numbers] for word in ("_noisy", "_clean"))
    assert match_names(lq, gt) == (list(zip(lq, gt, strict=True)), {})
    # A word that a truth has, too, tells no side.
    assert match_names(["a_low_s2.png"], ["a_low.png", "a_s2.png", "a.png"])[0] == [
        ("a_low_s2.png", "a_low.png")
    ]
    # Where there is but one truth, all are versions of it.
    assert [gt for _, gt in match_names(lq, ["a.png"])[0]] == ["a.png"] * 3


@pytest.mark.parametrize("rename", [None, ("é$", "é")])
def test_letters_of_an_archive_of_macos_are_those_of_others(rename):
    lq, gt = (unicodedata.normalize(form, "Café/été_1.png") for form in ("NFD", "NFC"))
    for one, other in ((lq, gt), (gt, lq)):
        assert match_names([one], [other], rename) == ([(one, other)], {})


def test_a_rule_of_ones_own_comes_first():
    pairs, _ = match_names(["a7.png"], ["x/b7.png", "b7.png"], ("^b", "a"))
    assert pairs == [("a7.png", "b7.png")]
    with pytest.raises(ValueError, match=r"gt_rename=\('\(', 'a'\): no regular expression"):
        match_names(["a.png"], ["b.png"], ("(", "a"))


def _save(path, size=(40, 48), seed=0):
    write_image(path, np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


GOPRO = ("blur", "blur_gamma", "sharp")
LAYOUTS = {
    "nh_haze": ["nh_haze/0{i}_hazy.png", "nh_haze/0{i}_GT.png"],
    "raindrop": ["raindrop/test_a/data/{i}_rain.png", "raindrop/test_a/gt/{i}_clean.png"],
    "rain100l": ["rain100l/rainy/rain-00{i}.png", "rain100l/norain-00{i}.png"],
    "rain100h": ["rain100h/rain-00{i}.png", "rain100h/norain-00{i}.png"],
    "lol_v2": [
        "lol_v2/Real_captured/Test/Low/low0069{i}.png",
        "lol_v2/Real_captured/Test/Normal/normal0069{i}.png",
    ],
    "gopro": [
        f"gopro/test/GOPR0384_11_00/{k}/00{{i}}.png" for k in ("blur", "blur_gamma", "sharp")
    ],
    "poled": ["poled/LQ/{i}.png", "poled/HQ/{i}.png"],
    "bsd68_25": [f"bsd68/{k}/000{{i}}.png" for k in ("original", "noisy25", "noisy50")],
}


@pytest.mark.parametrize("preset", LAYOUTS)
def test_presets_find_their_sets_as_published(tmp_path, preset):
    for number in range(3):
        for file in LAYOUTS[preset]:
            _save(tmp_path / file.format(i=number), seed=number)
    opened = open_set(PRESETS[preset], tmp_path)
    assert len(opened.items) == 3
    assert not opened.skipped
    for item in opened.items:
        assert item.load(0)[1].shape == (40, 48, 3)


def test_the_truth_of_sots_indoor_is_cut_to_its_centre(tmp_path):
    _save(tmp_path / "sots_indoor/hazy/1400_1.png", (46, 62))
    _save(tmp_path / "sots_indoor/gt/1400.png", (48, 64), seed=1)
    (item,) = open_set(PRESETS["sots_indoor"], tmp_path).items
    whole = open_set(SetSpec("s", "sots_indoor", "unpaired", lq="gt"), tmp_path).items[0].load(0)[0]
    np.testing.assert_array_equal(item.load(0)[1], whole[1:47, 1:63])
    plain = open_set(SetSpec("s", "sots_indoor", lq="hazy", gt="gt"), tmp_path)
    assert "its ground truth is 64x48; centre_crop=True" in plain.remarks[-1]


def test_a_set_that_does_not_match_says_what_it_found(tmp_path):
    for number in range(3):
        _save(tmp_path / f"s/LQ/a{number}.png")
        _save(tmp_path / f"s/GT/b{number}.png")
    words = r"3 \(a0\.png, a1\.png, \.\.\.\) .* 3 \(b0\.png, b1\.png, \.\.\.\) .*gt_rename="
    opened = open_set(SetSpec("s", "s"), tmp_path)
    with pytest.raises(ValueError, match=words):
        raise ValueError(opened.remarks[-1])
    with pytest.raises(ValueError, match=words):
        PairFolder(tmp_path / "s")
    assert len(PairFolder(tmp_path / "s", gt_rename=("^b", "a"))) == 3
    more = open_set(SetSpec("s", "s", gt_rename=("^b", "a"), count=2), tmp_path)
    words = "more than it has; are there copies in sub-folders?"
    assert more.remarks == [f"3 images instead of 2: {words}"]


SIDES = ["low,high", "Low,Normal", "blur,sharp", "rainy,norain", "hazy,GT", "input,target", "lq,gt"]


@pytest.mark.parametrize("sides", SIDES)
def test_pairs_to_train_on_lie_in_folders_as_published(tmp_path, sides):
    lq, gt = sides.split(",")
    for side in (lq, gt):
        _save(tmp_path / "set" / side / "1.png")
    for folder in (tmp_path / "set", tmp_path):
        pairs = PairFolder(folder)
        assert pairs.classes == ("set",)
        assert pairs.name(0) == (tmp_path / "set" / lq / "1.png").relative_to(folder).as_posix()


def test_pairs_may_be_described_in_a_text(tmp_path):
    for scene in ("A", "B"):
        for side in ("blur", "blur_gamma", "sharp"):
            _save(tmp_path / scene / side / "1.png")
    text = f"pairs:{tmp_path}?lq=*/blur&gt=*/sharp&class_name=blur"
    pairs = open_source(parse_source(text))
    assert [pairs.name(index) for index in range(len(pairs))] == ["A/blur/1.png", "B/blur/1.png"]
    assert pairs.classes == ("blur",)
    with pytest.raises(ValueError, match="lq and gt go together"):
        open_source(parse_source(f"pairs:{tmp_path}?lq=*/blur"))
    with pytest.raises(ValueError, match="gt_rename=x: expected PATTERN->REPLACEMENT"):
        parse_source("pairs:/d?gt_rename=x")
    with pytest.raises(ValueError, match="unknown key 'colour'"):
        open_source(parse_source(f"pairs:{tmp_path}?colour=red"))


def test_larger_truths_to_train_on_may_be_cut(tmp_path):
    _save(tmp_path / "hazy/1_1.png", (46, 62))
    _save(tmp_path / "clear/1.png", (48, 64), seed=1)
    with pytest.raises(ValueError, match=r"clear/1\.png is 64x48\); centre_crop=yes cuts"):
        PairFolder(tmp_path)
    found = PairFolder(tmp_path, centre_crop=True)[0]
    assert found["lq"].shape == found["gt"].shape == (46, 62, 3)
