"""Lessons for the degradation tower: what it is shown, and which weights they may change."""

import importlib
import pathlib

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.data.degradations.mix import Mixture, degrade, parse

LAUNCH = pathlib.Path(__file__).parent.parent.parent / "launch"
PHOTO = np.random.default_rng(0).integers(60, 200, (48, 48, 3)).astype(np.uint8)


@pytest.fixture
def teach_tower(monkeypatch):
    """The program, as a module."""
    monkeypatch.syspath_prepend(str(LAUNCH))
    return importlib.import_module("teach_tower")


def roughness(image, clean):
    noise = image.astype(float) - clean
    return np.abs(np.diff(noise, axis=1)).mean() / noise.std()


@pytest.mark.parametrize("seed", range(6))
def test_fine_grain_is_rougher_and_as_strong(teach_tower, seed):
    clean = np.full((96, 96, 3), 120, np.uint8)
    recipe = parse("camera_noise:3", seed=seed)
    coarse, fine = degrade(clean, recipe), teach_tower.with_fine_grain(clean, recipe)
    assert roughness(fine, clean) >= roughness(coarse, clean)
    assert np.std(fine - 120.0) == pytest.approx(np.std(coarse - 120.0), rel=0.15)


def test_other_degradations_are_to_be_answered_as_they_were(teach_tower):
    mixture = Mixture(names=("camera_noise", "rain"), max_mixed=2, clean_share=0.1)
    recipes = [parse("rain:2", seed=1), parse("rain:2 + camera_noise:4", seed=2)]
    rows = [mixture.encode(recipe) for recipe in recipes]
    example = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    example["gt"] = np.stack([PHOTO, PHOTO])
    example["lq"] = np.stack([degrade(PHOTO, recipe) for recipe in recipes])
    example["label"] = np.stack([mixture.multi_hot(recipe) for recipe in recipes])
    made = teach_tower.lesson(example, mixture)
    np.testing.assert_array_equal(made["like"][0], made["lq"][0])
    assert (made["like"][1] != made["lq"][1]).any()
    np.testing.assert_array_equal(made["lq"], example["lq"])


def test_lessons_change_projection_and_classes_and_nothing_else(
    teach_tower, photo_folder, tmp_path, capsys, monkeypatch
):
    small = {"_CROP": 32, "_BATCH": 4, "_STEPS": 2, "_STEPS_CLASSES": 2}
    for name, value in small.items():
        monkeypatch.setattr(teach_tower, name, value)
    output, kept = tmp_path / "taught.safetensors", tmp_path / "statistics.npz"
    command = [f"--photos={photo_folder}", "--lessons=3", f"--statistics={kept}"]
    assert teach_tower.main([*command, f"--output={output}"]) == 0
    assert "lesson 3 of 3" in capsys.readouterr().out
    (_, before), (_, after) = (published.load(path) for path in (teach_tower.START, output))
    before, after = flatten_dict(before), flatten_dict(after)
    assert before.keys() == after.keys()
    changed = {key[:-1] for key in before if not np.array_equal(before[key], after[key])}
    assert changed == {("degradation", "backbone", "proj"), ("degradation", "classes")}

    again = tmp_path / "again.safetensors"
    assert teach_tower.main([*command, f"--output={again}"]) == 0
    assert " of 3" not in capsys.readouterr().out
    assert published.fingerprint(again) == published.fingerprint(output)

    assert teach_tower.main([*command, f"--output={again}", "--checkpoint=none.safetensors"]) == 2
    assert "error: " in capsys.readouterr().err
