"""The real entry point, end to end: train, resume, refuse, evaluate, two processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
# Half as much to compile, for tests that are not about the network.
SMALLER = ("--config.model.use_semantic=False", "--config.model.use_structure=False")


@pytest.fixture
def experiment(tiny_experiment):
    """The tiny configuration as an experiment file."""
    return tiny_experiment


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
    )


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
    kept = pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "tpgdiff_jax" / "compiled"
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


def test_the_installed_command_is_the_same_program(tmp_path):
    """What an installer makes of [project.scripts], run outside of the repository."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["tpgdiff"].split(":")
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import {function}; {function}()", "--mode=restore"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: --mode=restore needs --input: an image, a folder or a pattern.\n"


def test_a_loss_that_is_not_finite_stops_the_run_with_one_sentence(experiment, tmp_path):
    done = run(experiment, tmp_path / "run", "--config.optim.learning_rate=1e30", *SMALLER)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr[done.stderr.index("error:") :]
    assert all(word in last for word in ("Step ", "bad_step_", "learning_rate")), last


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
