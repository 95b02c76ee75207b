"""The evaluation at the end of training: the same on one device and over a mesh."""

import copy
import json
import math

import jax
import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.data.degradations.mix import parse
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.training import validation_report as report
from tpgdiff_jax.training.validate import Result, TestPair, _restore_and_score, evaluate


@pytest.fixture
def config(tiny_system, tiny_config):
    tiny_config.unlock()
    for group in ("model", "priors", "diffusion"):
        tiny_config[group].update(tiny_system.config[group])
    tiny_config.data.degradations = ("noise", "rain")
    tiny_config.eval.update({"crop_size": 24, "batch_size": 3})
    return tiny_config


def test_a_mesh_gives_the_scores_of_one_device(tiny_system, config, photo_folder, tmp_path):
    photos = PhotoFolder(photo_folder)
    alone = evaluate(tiny_system.variables, config, photos)
    programs = _restore_and_score._cache_size()
    again = evaluate(tiny_system.variables, copy.deepcopy(config), photos)
    assert _restore_and_score._cache_size() == programs  # validations of a run share a program
    assert [r.psnr for r in again] == [r.psnr for r in alone]
    sizes = {"data": 2, "fsdp": 2, "tensor": 2, "spatial": 1}
    mesh = sharding.make_mesh(sizes)
    # Wide weights split, as in training; the rest on every device.
    laid = sharding.infer_shardings(tiny_system.variables, mesh, ((".*", "fsdp"),))
    variables = jax.device_put(tiny_system.variables, laid)
    spread = evaluate(variables, config, photos, mesh=mesh)
    assert [r.pair.photo for r in spread] == [r.pair.photo for r in alone]
    for one, other in zip(alone, spread, strict=True):
        assert other.psnr == pytest.approx(one.psnr, abs=0.01)
        assert other.psnr_input == pytest.approx(one.psnr_input, abs=1e-4)
        np.testing.assert_allclose(other.restored.astype(int), one.restored, atol=1)
    means = report.mean_scores(spread)
    assert set(means) == {"noise", "rain", "mean"}
    picture = report.write_report(spread, tmp_path / "out")
    assert Image.open(picture).size[::-1] == report.comparison_picture(spread).shape[:2]


def test_scores_of_equal_images_are_json(tmp_path):
    image = np.zeros((24, 24, 3), np.uint8)
    pair = TestPair("a.png", parse("noise:3"), image, image)
    report.write_report([Result(pair, image, 20.0, math.inf, 0.5, 1.0)], tmp_path)
    text = (tmp_path / "scores.json").read_text()
    scores = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert scores["images"][0]["psnr"] == scores["means"]["mean"]["gain"] == "inf"
    assert float(scores["means"]["mean"]["psnr"]) == math.inf
