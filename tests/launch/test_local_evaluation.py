"""Evaluation by several real processes (slow): scores are those of one process."""

import json

import pytest
from local_processes import finish

from tpgdiff_jax.checkpoints import published

_BENCHMARK = """
from tpgdiff_jax.config import base_config

def get_config():
    config = base_config()
    config.benchmark.root = {root!r}
    config.benchmark.metrics = ("psnr", "ssim")
    clean = {{"folder": "photos", "layout": "clean", "gt": ""}}
    config.benchmark.sets = (
        clean | {{"name": "noise", "sigma": 25.0}},
        clean | {{"name": "more", "sigma": 50.0}},
    )
    return config
"""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("count", [2, 4])
def test_a_run_is_scored_as_by_one_process(local, small_flags, photo_folder, tmp_path, count):
    flags = (*small_flags, "--config.optim.steps=4", f"--workdir={tmp_path / 'run'}")
    code, said = finish(local(1, *flags))
    assert code == 0, said
    scores = []
    for started in (1, count):
        folder = f"--config.data.eval_folder={photo_folder}"
        code, said = finish(local(started, "--mode=eval", *flags, folder))
        assert code == 0, said
        assert said.count("posterior, 2 steps, photos not trained on:") == 1
        scores.append(json.loads((tmp_path / "run" / "evaluation" / "scores.json").read_text()))
    # Images share a program; their number in it decides the last digits.
    expected, found = (dict(_leaves(each)) for each in scores)
    assert len(expected) > 30
    for name, value in expected.items():
        same = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
        assert found.pop(name) == same, name
    assert not found


@pytest.mark.parametrize("count", [2, 4])
def test_a_benchmark_is_scored_as_by_one_process(local, tiny_system, photo_folder, tmp_path, count):
    weights, config = tmp_path / "weights.safetensors", tmp_path / "benchmark.py"
    published.save(weights, tiny_system.variables["params"], published.describe(tiny_system.config))
    config.write_text(_BENCHMARK.format(root=str(photo_folder.parent)))
    found = []
    for started in (1, count):
        output = tmp_path / f"by_{started}"
        flags = ("--mode=eval", f"--config={config}", f"--checkpoint={weights}")
        code, said = finish(local(started, *flags, f"--output={output}"))
        assert code == 0, said
        summary = json.loads((output / "summary.json").read_text())
        found.append([_without_times(summary[name]) for name in ("sets", "variants")])
        assert len(list((output / "restored").rglob("*.png"))) == 6
        assert len(list((output / "scores").glob("process_*.jsonl"))) == started
    assert found[1] == found[0]


def _leaves(value, name=""):
    """Yield (name, value) of all that scores hold."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list):
            yield from _leaves(inner, f"{name}/{key}")
        else:
            yield f"{name}/{key}", inner


def _without_times(value):
    if isinstance(value, dict):
        return {key: _without_times(v) for key, v in value.items() if "seconds" not in key}
    return [_without_times(v) for v in value] if isinstance(value, list) else value
