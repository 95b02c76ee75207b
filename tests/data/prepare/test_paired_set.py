"""Fixed test sets: complete, repeatable, readable by every source, never overwritten."""

import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.config import base_config
from tpgdiff_jax.data.degradations.mix import Recipe, degrade
from tpgdiff_jax.data.open_source import open_source
from tpgdiff_jax.data.prepare import paired_set
from tpgdiff_jax.data.prepare.paired_set import plans, prepare, write_preview
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.reporting.errors import UserError


@pytest.fixture
def config():
    config = base_config()
    config.prepare.recipes = ("noise", "haze:2 + rain")
    config.prepare.severities = (1.0, 2.5)
    return config


@pytest.fixture
def photos(photo_folder):
    (photo_folder / "sub").mkdir()
    (photo_folder / "2.png").rename(photo_folder / "sub" / "2.png")
    return PhotoFolder(photo_folder)


def test_every_photo_meets_every_recipe_and_can_be_made_again(photos, config, tmp_path):
    output = tmp_path / "set"
    assert prepare(photos, config, output) == 3 * 4
    listed = json.loads((output / "recipes.json").read_text())["pairs"]
    assert len(listed) == 12
    for pair in listed:
        lq, gt = (np.asarray(Image.open(output / pair[key])) for key in ("lq", "gt"))
        np.testing.assert_array_equal(degrade(gt, Recipe.from_json(pair["recipe"])), lq)
    names = {pathlib.Path(pair["lq"]).name for pair in listed}
    assert {"0_s1.png", "0_s2p5.png", "sub_2_s2_1.png", "1_s2_2p5.png"} <= names
    assert not [p for p in output.rglob("*") if "partial" in p.name]


@pytest.mark.parametrize("other", ["0_s1.png", "0_s2p5.png", "0_s2.png"])
def test_a_photo_that_is_called_as_another_is_degraded_is_refused(
    photo_folder, config, tmp_path, other
):
    """Its pairs would be matched with the wrong truth."""
    config.prepare.recipes = ("noise", "haze:2 + rain:4")
    (photo_folder / "1.png").rename(photo_folder / other)
    with pytest.raises(UserError, match=rf"0\.png, degraded, would be called '0_s.*{other}"):
        prepare(PhotoFolder(photo_folder), config, tmp_path / "set")


def test_a_name_that_becomes_too_long_is_refused_before_any_work(photo_folder, config, tmp_path):
    deep = photo_folder / ("a" * 200) / ("b" * 60)
    deep.mkdir(parents=True)
    (photo_folder / "2.png").rename(deep / "2.png")
    photos = PhotoFolder(photo_folder)
    with pytest.raises(UserError, match=r"aaa/b+/2\.png, degraded, would .*format=records"):
        prepare(photos, config, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    config.prepare.format = "records"
    assert prepare(photos, config, tmp_path / "set") == 3 * 4


def test_all_formats_hold_the_same_pairs(photos, config, tmp_path):
    sources = []
    for form, spec in (
        ("folder", {"kind": "pairs", "path": tmp_path / "folder"}),
        ("records", {"kind": "record_pairs", "path": tmp_path / "records/pairs.array_record"}),
        ("tfds", {"kind": "tfds_pairs", "path": tmp_path / "tfds", "split": "test"}),
    ):
        config.prepare.format = form
        prepare(photos, config, tmp_path / form)
        sources.append(open_source(spec))
    seen = []
    for source in sources:
        assert source.classes == ("haze+rain", "noise") or source.classes == ("noise", "haze+rain")
        items = [source[i] for i in range(len(source))]
        rows = {
            (source.classes[item["label"]], item["lq"].tobytes(), item["gt"].tobytes())
            for item in items
        }
        assert len(rows) == 12
        seen.append(rows)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize(("form", "kind"), [("records", "record_pairs"), ("tfds", "tfds_pairs")])
def test_names_that_are_no_text_are_written_with_escapes(
    photo_folder, config, tmp_path, form, kind
):
    os.rename(photo_folder / "1.png", os.fsencode(photo_folder) + b"/caf\xe9.png")
    config.prepare.update({"format": form, "recipes": ("noise",), "severities": (2.0,)})
    prepare(PhotoFolder(photo_folder), config, tmp_path / "set")
    spec = {"kind": kind, "path": tmp_path / "set"} | ({"split": "test"} if form == "tfds" else {})
    source = open_source(spec)
    names = [source.name(index) for index in range(len(source))]
    assert any("caf\\udce9" in name for name in names)
    assert all(source[index] is not None for index in range(3))


def test_order_and_number_of_photos_change_no_pair(photos, config, tmp_path):
    prepare(photos, config, tmp_path / "all")
    for name in photos.names[1:]:
        (photos.folder / name).unlink()
    alone = PhotoFolder(photos.folder)
    prepare(alone, config, tmp_path / "one")
    for path in (tmp_path / "one").rglob("*.png"):
        same = tmp_path / "all" / path.relative_to(tmp_path / "one")
        assert same.read_bytes() == path.read_bytes()


def test_recipes_that_are_the_same_are_made_once(config):
    config.prepare.recipes = ("haze + rain", "rain + haze", "noise:2")
    assert len(plans(config)) == 2 + 1


def test_what_is_there_is_not_overwritten(photos, config, tmp_path):
    output = tmp_path / "set"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds files already"):
        prepare(photos, config, output)
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


@pytest.fixture
def interrupted(photos, config, tmp_path, monkeypatch):
    """A folder whose making ended in the middle of its seventh degradation."""
    calls = []

    def end_at_the_seventh(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return degrade(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(paired_set, "degrade", end_at_the_seventh)
        with pytest.raises(KeyboardInterrupt):
            prepare(photos, config, tmp_path / "set")
    return tmp_path / "set"


def test_an_interrupted_folder_is_gone_on_with(photos, config, interrupted, tmp_path, monkeypatch):
    made, calls = sorted(interrupted.rglob("LQ/*.png")), []
    assert len(made) == 6
    next(interrupted.rglob("GT/*.png")).unlink()  # it ended between the two
    monkeypatch.setattr(paired_set, "degrade", lambda *a: calls.append(a) or degrade(*a))
    times = [path.stat().st_mtime_ns for path in made]
    assert prepare(photos, config, interrupted) == 12
    assert len(calls) == 6
    assert times == [path.stat().st_mtime_ns for path in made]
    prepare(photos, config, tmp_path / "whole")
    found, wanted = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}
        for folder in (interrupted, tmp_path / "whole")
    )
    assert found == wanted
    with pytest.raises(UserError, match="holds files already"):
        prepare(photos, config, interrupted)


@pytest.mark.parametrize("other", ["seed", "crop_size", "recipes", "photos"])
def test_a_folder_is_never_made_of_two_settings(photos, config, interrupted, other):
    if other == "photos":
        path = photos.folder / photos.names[0]
        os.utime(path, ns=(0, 0))
    else:
        config.prepare[other] = {"seed": 9, "crop_size": 8, "recipes": ("noise:2",)}[other]
    before = sorted(interrupted.rglob("*"))
    with pytest.raises(UserError, match=f"was begun with other {other}; choose a new folder"):
        prepare(photos, config, interrupted)
    assert sorted(interrupted.rglob("*")) == before


@pytest.mark.parametrize("form", ["records", "tfds"])
def test_what_a_killed_program_left_hidden_is_in_nobodys_way(photos, config, tmp_path, form):
    config.prepare.format = form
    left = tmp_path / "set" / "restoration_pairs" / "default" / ".1.0.0.test.partial" / "00000"
    left.parent.mkdir(parents=True)
    for path in (left, tmp_path / "set" / ".1.0123456789abcdef.partial.array_record"):
        path.write_bytes(b"half")
    assert prepare(photos, config, tmp_path / "set") == 12


def test_photos_whose_names_would_collide_are_named(photos, config, tmp_path):
    (photos.folder / "0.png").rename(photos.folder / "sub_2.png")
    with pytest.raises(ValueError, match=r"sub.2\.png and sub_2\.png would both|both be called"):
        prepare(PhotoFolder(photos.folder), config, tmp_path / "set")


def test_a_bad_photo_is_left_out_and_reported(photos, config, tmp_path):
    first = photos.folder / photos.names[0]
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    assert prepare(photos, config, tmp_path / "set") == 2 * 4
    assert "0.png" in photos.summary()


def test_the_contact_sheet_shows_photos_and_recipes(photos, config, tmp_path):
    path = tmp_path / "sheet.png"
    write_preview(photos, config, path)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[0] > 2 * 136
    assert sheet.shape[1] > 5 * 136  # clean, and four plans
    assert sheet.std() > 20
