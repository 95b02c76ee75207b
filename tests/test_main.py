"""The real entry point, end to end: train, resume, refuse, evaluate, two processes."""

import json
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
# Half as much to compile, for tests that are not about the network.
SMALLER = ("--config.model.use_semantic=False", "--config.model.use_structure=False")

EXPERIMENT = '''
"""A tiny experiment."""
import json
from ml_collections import ConfigDict
from tpgdiff_jax.config import base_config
def get_config():
    config = base_config()
    change(config, json.loads({values!r}))
    return config
def change(group, values):
    for key, value in values.items():
        if isinstance(value, dict):
            change(group[key], value)
        else:
            group[key] = tuple(value) if isinstance(value, list) else value
'''


@pytest.fixture
def experiment(tmp_path, tiny_config):
    """Write the tiny configuration as an experiment file; return its path."""
    path = tmp_path / "tiny.py"
    values = json.loads(tiny_config.to_json())
    values.pop("sharding")
    path.write_text(EXPERIMENT.format(values=json.dumps(values)))
    return path


def command(experiment, workdir, *flags):
    module = [sys.executable, "-m", "tpgdiff_jax.main"]
    return [*module, f"--config={experiment}", f"--workdir={workdir}", *map(str, flags)]


def run(experiment, workdir, *flags):
    return subprocess.run(
        command(experiment, workdir, *flags),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


def environment():
    import os

    quick = "--xla_backend_optimization_level=0"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick}


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row for row in map(json.loads, lines)}


def eval_folder(tmp_path):
    folder = tmp_path / "unseen"
    folder.mkdir()
    image = np.random.default_rng(9).integers(0, 256, (30, 34, 3), np.uint8)
    Image.fromarray(image).save(folder / "unseen.png")
    return folder


def test_train_evaluate_export_and_restore(experiment, tmp_path):
    unseen = eval_folder(tmp_path)
    straight = tmp_path / "straight"
    done = run(experiment, straight, f"--config.data.eval_folder={unseen}")
    assert done.returncode == 0, done.stderr
    assert "step 4 of 4" in done.stderr
    assert all(name in done.stdout for name in ("noise", "haze", "mean", "restored.png"))
    scores = json.loads((straight / "evaluation" / "scores.json").read_text())
    assert {row["degradation"] for row in scores["images"]} == {"noise", "haze"}
    assert Image.open(straight / "evaluation" / "restored.png").width > 3 * 24
    assert list((straight / "tensorboard").glob("events*"))

    trained = rows(straight)

    # The next start finds what this one has compiled.
    kept = pathlib.Path(environment()["XDG_CACHE_HOME"]) / "tpgdiff_jax" / "compiled"
    assert list(kept.glob("jit_step-*"))

    # A finished run: nothing is trained again, and --mode=eval gives the same scores.
    again = run(experiment, straight, "--mode=eval", f"--config.data.eval_folder={unseen}")
    assert again.returncode == 0, again.stderr
    assert json.loads((straight / "evaluation" / "scores.json").read_text()) == scores

    # What is exported is a whole system, with the averaged weights.
    weights = tmp_path / "weights.safetensors"
    exported = run(experiment, straight, "--mode=export", f"--output={weights}")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(weights.with_suffix(".json").read_text())["trained_steps"] == 4

    # Restoring needs nothing but that file; one bad image is listed and fails the job at its end.
    (unseen / "broken.png").write_bytes(b"no image")
    flags = ["--mode=restore", f"--checkpoint={weights}", f"--input={unseen}", "--steps=2"]
    restored = subprocess.run(
        [sys.executable, "-m", "tpgdiff_jax.main", *flags, f"--output={tmp_path / 'restored'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert restored.returncode == 1, restored.stderr
    assert "1 restored, 0 were there already, 1 failed" in restored.stdout
    assert "broken.png" in restored.stdout
    assert Image.open(tmp_path / "restored" / "unseen.png").size == (34, 30)

    refused = run(experiment, straight, "--config.optim.learning_rate=0.5")
    assert refused.returncode == 2
    assert "optim.learning_rate: 0.001 -> 0.5" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert rows(straight) == trained


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.data.train_folder=/nowhere"], ["/nowhere", "does not exist"]),
        (["--config.data.train_folder="], ["data.train_folder", "are empty"]),
        (["--config.optim.learning_rate=1e30", *SMALLER], ["Step ", "bad_step_", "learning_rate"]),
        (["--workdir=/proc/nothing/here"], ["/proc/nothing/here", "cannot be written"]),
        (["--config.mesh.data=3"], ["data=3", "1 devices"]),
        (["--config.data.crop_size=4000"], ["smaller than the 4000 pixels that data.crop_size"]),
        (["--config.model.prediction=y"], ["model.prediction", "noise, x0, v"]),
        (["--num_processes=2", "--process_id=1"], ["--num_processes=2 alone", "--coordinator"]),
        (["--mode=tran"], ["tran", "train"]),
        (["stray"], ["stray"]),
    ],
)
def test_wrong_input_is_one_sentence(experiment, tmp_path, flags, words):
    done = run(experiment, tmp_path / "run", *flags)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr[done.stderr.index("error:") :]
    assert all(word in last for word in words), last


def test_folder_with_foreign_files_is_left_alone(experiment, tmp_path):
    workdir = tmp_path / "documents"
    workdir.mkdir()
    (workdir / "thesis.txt").write_text("precious")
    done = run(experiment, workdir)
    assert done.returncode == 2
    assert "thesis.txt" in done.stderr
    assert [path.name for path in workdir.iterdir()] == ["thesis.txt"]


def test_two_processes_learn_the_same_as_one(experiment, tmp_path):
    flags = ("--config.optim.steps=2", *SMALLER)
    alone = tmp_path / "alone"
    assert run(experiment, alone, *flags).returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = tmp_path / "together"
    processes = [
        subprocess.Popen(
            command(
                experiment,
                together,
                *flags,
                f"--coordinator=127.0.0.1:{port}",
                "--num_processes=2",
                f"--process_id={index}",
            ),
            cwd=ROOT,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    expected, found = rows(alone), rows(together)
    assert expected.keys() == found.keys()
    for step in expected:
        assert found[step]["loss"] == pytest.approx(expected[step]["loss"], rel=1e-5)
