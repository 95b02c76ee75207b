"""Fine-tuning as users do it: configs/finetune.py, published weights, pairs of their own."""

import json
import pathlib
import runpy

import jax
import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.training import experiment
from tpgdiff_jax.training.stages import build_stage

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "finetune.py"


@pytest.fixture
def weights(tiny_config, tmp_path):
    """Published weights of a system with one level and one prior, as a file."""
    model = {"multipliers": (1,), "use_structure": False, "use_semantic": False}
    tiny_config.model.update(model | {"first_attention_level": 1})
    path = tmp_path / "weights.safetensors"
    params = jax.device_get(build_stage(tiny_config).init(jax.random.key(0)))
    published.save(path, params, published.describe(tiny_config))
    return path


def write_pairs(folder, seed):
    rng = np.random.default_rng(seed)
    for side in ("LQ", "GT"):
        (folder / side).mkdir(parents=True)
        for index in range(2):
            image = rng.integers(0, 256, (24, 24, 3), np.uint8)
            Image.fromarray(image).save(folder / side / f"{index}.png")


def test_weights_learn_on_with_pairs_that_none_of_their_classes_describes(weights, tmp_path):
    for number, name in enumerate(("train", "test")):
        write_pairs(tmp_path / name, number)
    config = runpy.run_path(str(CONFIG))["get_config"](str(weights))
    before, _ = published.load(weights, ())
    assert json.loads(json.dumps(published.describe(config))).items() <= before.items()
    config.data.train_sources = (f"pairs:{tmp_path}/train?class_name=other",)
    config.data.eval_folder = f"pairs:{tmp_path}/test?class_name=other"
    config.data.update({"crop_size": 16, "batch_size": 8})
    config.optim.update({"steps": 2, "warmup_steps": 1, "learning_rate": 1e-2})
    config.eval.update({"every_steps": 2, "crop_size": 24})
    config.log.every_steps = 1
    run = tmp_path / "run"
    assert experiment.train(config, run)

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    validated = {row["step"]: row for row in rows if "validation/gain_other" in row}
    assert validated.keys() == {0, 2}  # what the weights did before, and what they do now
    assert validated[0]["validation/psnr"] != validated[2]["validation/psnr"]
    after, learned = published.load(run / "weights.safetensors")
    assert (after["model"], after["degradations"]) == (before["model"], before["degradations"])
    kernels = [w["unet"]["final_conv"]["kernel"] for w in (learned, published.load(weights)[1])]
    assert 0 < np.abs(kernels[0] - kernels[1]).max() < 1
    assert Restorer.load(run / "weights.safetensors", compile_cache=False).config.eval.steps == 2
