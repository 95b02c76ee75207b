"""Real training programs on a tiny experiment: started, watched, compared to the bit.

A plugin of pytest (see conftest.py), for its fixture; its functions are imported.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tpgdiff_jax.config import stage_config
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.runs.reading import abstract
from tpgdiff_jax.training import setup
from tpgdiff_jax.training.stages import build_stage

ROOT = pathlib.Path(__file__).parent.parent

_EXPERIMENT = '''
"""A tiny experiment."""
from ml_collections import ConfigDict
from tpgdiff_jax.config import base_config
def get_config():
    config = base_config()
    config.unlock()
    config.update(ConfigDict({values!r}))
    config.sharding = ((".*", "replicate"),)
    return config.lock()
'''


def write_experiment(path, config):
    """Write a configuration, whose parameters are on every device, as an experiment file."""
    config.sharding = ((".*", "replicate"),)
    values = json.loads(config.to_json())
    values.pop("sharding")
    path.write_text(_EXPERIMENT.format(values=values))


@pytest.fixture
def experiment(tmp_path, config):
    """The test module's `config` as an experiment file."""
    path = tmp_path / "tiny.py"
    write_experiment(path, config)
    return path


def start(experiment, workdir, *flags):
    """Start the training program; what it compiles is kept beside the experiment file."""
    flags = (f"--config={experiment}", f"--workdir={workdir}", *flags)
    # Compiled programs are kept, so that only the first start pays for them.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(experiment.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return start_program(*flags, **cache)


def start_program(*flags, **environment):
    """Start the program as a process, on one CPU device."""
    return subprocess.Popen(
        [sys.executable, "-m", "tpgdiff_jax.main", *map(str, flags)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, seconds=500):
    """Wait for a program that must end well; return what it wrote: (output, log)."""
    output, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors
    return output, errors


def metrics(workdir):
    """Return what was measured at each step, without what depends on the clock."""
    found = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        values = {key: value for key, value in row.items() if not key.startswith("speed/")}
        found[row["step"]] = found.get(row["step"], {}) | values
    return found


def wait_until(condition, process):
    """Wait for something that a program does; it must not end before."""
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
    assert step == config.optim.steps
    return jax.device_get(state), place


def assert_same(config, straight, broken):
    """Check that two finished runs measured the same and hold the same state, to the bit."""
    expected, found = metrics(straight), metrics(broken)
    assert expected.keys() == found.keys() == set(range(1, config.optim.steps + 1))
    for step, values in expected.items():
        assert found[step] == values, step
    (state, place), (same_state, same_place) = (final(config, d) for d in (straight, broken))
    assert place == same_place
    assert place["batches"] == config.optim.steps
    jax.tree.map(np.testing.assert_array_equal, state, same_state)
    files = [folder / "weights.safetensors" for folder in (straight, broken)]
    assert files[0].read_bytes() == files[1].read_bytes()
