"""A run's folder as a system: its newest average, and the frozen networks it learned beside."""

import json
import shutil

import jax
import numpy as np
import pytest

from tpgdiff_jax import config as configuration
from tpgdiff_jax.checkpoints import aside, published
from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.inference.run_weights import load_run
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.runs.manager import RunCheckpoints

CLIP = {"patch": 8, "width": 16, "layers": 1, "heads": 2, "image_size": 16, "features": 512}


def random_weights(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


def write_stage_one(folder, config, seed):
    model = tpgdiff.build(config)
    towers = {"semantic": model.semantic, "degradation": model.degradation}
    weights = {name: random_weights(abstract_params(net), seed) for name, net in towers.items()}
    published.save(folder / "weights.safetensors", weights, published.describe(config))
    return weights


@pytest.fixture
def run(tiny_config, tmp_path):
    """(an experiment of two stages with one checkpoint, its average, its frozen networks)."""
    config, folder = tiny_config, tmp_path / "run"
    config.model.update({"width": 32, "multipliers": (1, 1), "first_attention_level": 2})
    config.priors.update({"encoder": "clip", "clip": CLIP})
    frozen = write_stage_one(folder / "priors", config, 0)
    config.priors.stage_one = str(folder / "priors")
    (folder / "diffusion").mkdir()
    (folder / "diffusion" / "config.json").write_text(configuration.to_json(config))
    model = tpgdiff.build(config)
    params = {"unet": model.unet, "structure": model.structure}
    params = {name: random_weights(abstract_params(net), 1) for name, net in params.items()}
    with RunCheckpoints(folder / "diffusion" / "checkpoints", keep=1) as checkpoints:
        state = {"ema": jax.tree.map(jax.numpy.asarray, params), "more_ema": ()}
        checkpoints.save(3, state, {"frozen": fingerprint_of(frozen)})
    return folder, params, frozen


def test_an_experiment_is_read_with_the_networks_it_learned_beside(run):
    folder, params, frozen = run
    _, variables, _ = load_run(folder)
    jax.tree.map(np.testing.assert_array_equal, variables, {"params": params, "frozen": frozen})


def test_an_experiment_that_was_moved_takes_its_own_first_stage(run, tmp_path):
    folder, _, frozen = run
    shutil.move(folder, tmp_path / "backup")
    _, variables, config = load_run(tmp_path / "backup")
    jax.tree.map(np.testing.assert_array_equal, variables["frozen"], frozen)
    # Another experiment where it used to be is not taken for it.
    write_stage_one(folder / "priors", config, 5)
    _, variables, _ = load_run(tmp_path / "backup" / "diffusion")
    jax.tree.map(np.testing.assert_array_equal, variables["frozen"], frozen)


def test_other_frozen_networks_than_it_learned_beside_are_refused(run):
    folder, _, _ = run
    config = load_run(folder)[2]
    aside.set_aside(folder / "priors" / "weights.safetensors")
    write_stage_one(folder / "priors", config, 5)
    with pytest.raises(ValueError, match="not those the run was started with"):
        load_run(folder)


def test_a_bit_that_fell_over_is_no_other_weight(run, caplog):
    folder, params, _ = run
    checkpoints = folder / "diffusion" / "checkpoints"
    shutil.copytree(checkpoints / "3", checkpoints / "4")
    largest = max((checkpoints / "4" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    _, variables, _ = load_run(folder)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], params)
    assert f"{largest.name} is not what was written" in caplog.text


def test_a_wrong_choice_of_the_average_is_no_damage(run):
    folder, _, _ = run
    path = folder / "diffusion" / "config.json"
    values = json.loads(path.read_text())
    values["eval"]["ema_decay"] = 0.5
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"eval\.ema_decay"):
        load_run(folder)
