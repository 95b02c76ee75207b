"""Lessons for the degradation tower: what it is shown, and which weights they may change."""

import importlib
import pathlib

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.published import DEFAULT_WEIGHTS
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
    (_, before), (_, after) = (published.load(path) for path in (DEFAULT_WEIGHTS, output))
    before, after = flatten_dict(before), flatten_dict(after)
    assert before.keys() == after.keys()
    changed = {key[:-1] for key in before if not np.array_equal(before[key], after[key])}
    assert changed == {("degradation", "backbone", "proj"), ("degradation", "classes")}

    again = tmp_path / "again.safetensors"
    assert teach_tower.main([*command, f"--output={again}"]) == 0
    assert " of 3" not in capsys.readouterr().out
    assert published.fingerprint(again) == published.fingerprint(output)

    for wrong in ("--lessons=2", f"--checkpoint={output}"):
        assert teach_tower.main([*command, wrong, f"--output={tmp_path / 'no'}"]) == 2
        assert "are those of other weights, or of another number" in capsys.readouterr().err
    kept.write_bytes(kept.read_bytes()[:-100])
    assert teach_tower.main([*command, f"--output={tmp_path / 'no'}"]) == 2
    assert "is damaged; remove it" in capsys.readouterr().err

    assert teach_tower.main([*command, f"--output={again}", "--checkpoint=none.safetensors"]) == 2
    assert "error: " in capsys.readouterr().err


def test_dark_photos_that_were_taken_for_low_light_prompt_what_their_noise_prompts(teach_tower):
    names = ("low_light", "camera_noise", "rain")
    # Each vector says by its two numbers whether the first tower named low light, camera noise.
    wanted = np.array([[1, 1], [-1, 1], [-1, 1], [1, -1], [1, -1]], np.float32)
    found = {
        "seen": np.arange(5)[:, None],
        "wanted": wanted * [[9, 9], [9, 8], [9, 10], [9, 9], [9, 9]],
        # Noise taken for low light; noise named right, twice; rain taken for low light; low light.
        "label": np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        "is_new": np.array([True, True, True, False, False]),
    }
    classes = {"kernel": np.eye(2, 3, dtype=np.float32), "bias": np.zeros(3, np.float32)}
    right = teach_tower.corrected(found, classes, names)
    np.testing.assert_array_equal(right["seen"][:, 0], [0, 1, 2, 4])  # without the rain
    np.testing.assert_allclose(right["wanted"][0], [-9, 9])  # the mean of the two named right
    np.testing.assert_allclose(right["wanted"][1:], found["wanted"][[1, 2, 4]])
    np.testing.assert_array_equal(right["weight"], [1, 1, 1, 1 + teach_tower._LOW_LIGHT])
    np.testing.assert_array_equal(found["wanted"][0], [9, 9])  # what was measured stays
