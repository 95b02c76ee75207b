"""Teaching the degradation tower to name: what it may change, and that it can be taken up again."""

import importlib
import pathlib

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.published import DEFAULT_WEIGHTS

LAUNCH = pathlib.Path(__file__).parent.parent.parent / "launch"


@pytest.fixture
def teach_names(monkeypatch):
    """The program, as a module, with small lessons."""
    monkeypatch.syspath_prepend(str(LAUNCH))
    module = importlib.import_module("teach_names")
    for name, value in {"_CROP": 32, "_BATCH": 4, "_KEPT_EVERY": 1, "_SHOWN_EVERY": 1}.items():
        monkeypatch.setattr(module, name, value)
    return module


def lessons(module, folder, output, *more):
    return module.main([f"--photos={folder}", f"--output={output}", "--steps=2", *more])


def test_only_the_tower_learns_and_the_state_is_taken_up(
    teach_names, photo_folder, tmp_path, capsys, monkeypatch
):
    whole, parts, kept = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "state"))
    assert lessons(teach_names, photo_folder, whole) == 0
    (_, before), (_, after) = (published.load(path) for path in (DEFAULT_WEIGHTS, whole))
    before, after = flatten_dict(before), flatten_dict(after)
    assert before.keys() == after.keys()
    changed = {key[0] for key in before if not np.array_equal(before[key], after[key])}
    assert changed == {"degradation"}

    original = teach_names.serialization.to_bytes

    def dies(learner):
        if learner.step == 2:
            raise KeyboardInterrupt
        return original(learner)

    monkeypatch.setattr(teach_names.serialization, "to_bytes", dies)
    with pytest.raises(KeyboardInterrupt):
        lessons(teach_names, photo_folder, parts, f"--state={kept}")
    monkeypatch.setattr(teach_names.serialization, "to_bytes", original)
    capsys.readouterr()
    assert lessons(teach_names, photo_folder, parts, f"--state={kept}") == 0
    told = capsys.readouterr().out
    assert "goes on after step 1 of 2" in told
    assert "step 1 of 2: " not in told
    assert published.fingerprint(parts) == published.fingerprint(whole)


def test_learning_names_better_and_keeps_the_prompt(teach_names):
    description, weights = published.load(DEFAULT_WEIGHTS)
    config = published.described_config(description).copy_and_resolve_references()
    config.model.dtype = "float32"  # so that rounding does not move the prompt
    first, prompt = weights["degradation"], weights["unet"]["degradation"]
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3)).astype(np.uint8)
    label = np.zeros((4, len(config.data.degradations)), np.float32)
    label[:, 0] = label[2:, 1] = 1
    batch = {"lq": noise // np.array([1, 2, 3, 4], np.uint8)[:, None, None, None], "label": label}

    def learned(keep):
        optimizer = optax.adam(3e-5)
        step = teach_names.make_step(config, first, prompt, optimizer, keep)
        learner, told = teach_names.Learner(first, optimizer.init(first), 0), []
        for _ in range(10):
            learner, each = step(learner, batch)
            told.append(jax.device_get(each))
        return told

    free, kept = learned(0.0), learned(20.0)
    assert kept[0]["far"] < 1e-6
    assert kept[-1]["wrong"] < kept[0]["wrong"]
    ways = [sum(row["far"] for row in told) for told in (kept, free)]
    assert ways[0] < 0.5 * ways[1]


def test_refusals_are_sentences(teach_names, photo_folder, tmp_path, capsys):
    output = tmp_path / "there.safetensors"
    output.write_text("mine")
    assert lessons(teach_names, photo_folder, output) == 2
    assert "exists" in capsys.readouterr().err
    assert output.read_text() == "mine"
    new = tmp_path / "new.safetensors"
    assert lessons(teach_names, photo_folder, new, "--checkpoint=none.safetensors") == 2
    assert "none.safetensors" in capsys.readouterr().err
