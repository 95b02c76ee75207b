"""A run that is killed, asked to end and started again is, to the bit, one that never stopped."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.config import stage_config
from tpgdiff_jax.runs.manager import RunCheckpoints, abstract
from tpgdiff_jax.training import setup
from tpgdiff_jax.training.stages import build_stage

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 40

EXPERIMENT = '''
"""A tiny experiment of 40 steps."""
from ml_collections import ConfigDict
from tpgdiff_jax.config import base_config
def get_config():
    config = base_config()
    config.unlock()
    config.update(ConfigDict({values!r}))
    config.sharding = ((".*", "replicate"),)
    return config.lock()
'''


@pytest.fixture
def config(tiny_config):
    tiny_config.optim.steps = STEPS
    tiny_config.checkpoint.every_steps = 10
    tiny_config.ema.more_decays = (0.9,)
    tiny_config.model.dropout_structure = 0.2
    tiny_config.sharding = ((".*", "replicate"),)
    return tiny_config


@pytest.fixture
def start(tmp_path, config):
    """`start(workdir)` -> the training program, as a process."""
    path = tmp_path / "tiny.py"
    values = json.loads(config.to_json())
    values.pop("sharding")
    path.write_text(EXPERIMENT.format(values=values))
    # Compiled programs are kept, so that only the first start pays for them.
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def begin(workdir):
        module = [sys.executable, "-m", "tpgdiff_jax.main"]
        return subprocess.Popen(
            [*module, f"--config={path}", f"--workdir={workdir}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def metrics(workdir):
    """Return what was measured at each step, without what depends on the clock."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = {}
    for row in map(json.loads, lines):
        values = {key: value for key, value in row.items() if not key.startswith("speed/")}
        found[row["step"]] = found.get(row["step"], {}) | values
    return found


def wait_until(condition, process):
    deadline = time.monotonic() + 400
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1]


def final(config, workdir):
    """Return state and place in the data of a finished run."""
    stage = build_stage(stage_config(config, "diffusion"))
    mesh = setup.sharding.make_mesh(config.mesh, jax.devices()[:1])
    _, shapes, shardings = setup.plan_state(stage, mesh)
    with RunCheckpoints(workdir / "checkpoints", keep=3) as checkpoints:
        step, state, place = checkpoints.restore_latest(abstract(shapes, shardings))
    assert step == STEPS
    return jax.device_get(state), place


def test_killed_asked_to_end_and_continued_equals_straight_through(start, config, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    process = start(straight)
    assert process.wait(timeout=500) == 0, process.communicate()[1]
    assert (straight / "weights.safetensors").is_file()

    # Killed while step 20 is being written (or, if that was too quick to be seen, right after).
    process = start(broken)
    steps = broken / "checkpoints"
    wait_until(lambda: list(steps.glob("20*")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()

    # Asked to end: saved between two regular saves, and no failure.
    process = start(broken)
    wait_until(lambda: max(metrics(broken), default=0) >= 24, process)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert "Continuing the run" in errors
    assert "SIGTERM" in errors
    assert "the same command continues" in output
    assert not (broken / "weights.safetensors").exists()
    reached = max(metrics(broken))
    assert 24 <= reached < STEPS

    process = start(broken)
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert f"at step {reached} of {STEPS}" in errors
    expected, found = metrics(straight), metrics(broken)
    assert expected.keys() == found.keys() == set(range(1, STEPS + 1))
    for step, values in expected.items():
        assert found[step] == values, step
    (state, place), (same_state, same_place) = (final(config, d) for d in (straight, broken))
    assert place == same_place
    assert place["batches"] == STEPS
    jax.tree.map(np.testing.assert_array_equal, state, same_state)
    assert len(state.more_ema) == 1
    files = [folder / published.WEIGHTS_NAME for folder in (straight, broken)]
    assert files[0].read_bytes() == files[1].read_bytes()
    starts = [json.loads(line) for line in (broken / "starts.jsonl").read_text().splitlines()]
    assert len(starts) == 3
    assert starts[0]["versions"]["jax"] == jax.__version__
