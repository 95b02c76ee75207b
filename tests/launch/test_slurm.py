"""launch/slurm.sbatch as a real job; docs/launching.md says which Slurm this was run on."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
SMALLER = ("--config.model.use_semantic=False", "--config.model.use_structure=False")


def _answers():
    if shutil.which("sbatch") is None:
        return False
    done = subprocess.run(["sinfo"], capture_output=True, check=False, timeout=30)
    return done.returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _answers(), reason="no Slurm runs here"),
]


@pytest.fixture
def submit(tmp_path, tiny_experiment):
    """`submit(*flags)` -> (job's number, its log) of two tasks on CPU devices."""
    bin_folder = tmp_path / "venv" / "bin"
    bin_folder.mkdir(parents=True)
    python = bin_folder / "python"
    python.write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    log, numbers = tmp_path / "log", []

    def start(*flags):
        options = ["--parsable", "--ntasks-per-node=2", "--gpus-per-node=0", "--cpus-per-task=1"]
        words = ["sbatch", *options, "--time=20", f"--output={log}", "launch/slurm.sbatch"]
        words += [f"--config={tiny_experiment}", f"--workdir={tmp_path / 'run'}", *SMALLER, *flags]
        environment = os.environ | {"TPGDIFF_VENV": str(tmp_path / "venv")}
        done = subprocess.run(
            words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        numbers.append(done.stdout.strip())
        return numbers[-1], log

    yield start
    for number in numbers:
        subprocess.run(["scancel", number], check=False)


def wait_for(log, words, seconds):
    deadline = time.monotonic() + seconds
    while not (log.is_file() and words in log.read_text()):
        assert time.monotonic() < deadline, log.read_text() if log.is_file() else "no log"
        time.sleep(0.5)
    return log.read_text()


def test_tasks_find_each_other(submit, tmp_path):
    _, log = submit()
    said = wait_for(log, "Ended with code", 300)
    assert "Ended with code 0" in said
    assert "2 cpu device(s)" in said
    assert (tmp_path / "run" / "weights.safetensors").is_file()


@pytest.mark.timeout(900)
def test_a_job_that_is_asked_to_end_saves_is_queued_again_and_goes_on(submit, tmp_path):
    number, log = submit("--config.optim.steps=300", "--config.log.every_steps=5")
    wait_for(log, "step 10 of 300", 300)
    # As Slurm does before the time limit.
    subprocess.run(["scancel", "--batch", "--signal=TERM", number], check=True)
    said = wait_for(log, "Queued again", 120)
    (step,) = re.findall(r"saved at step (\d+) of 300", said)
    # Slurm waits two minutes before it starts a job again.
    said = wait_for(log, "Ended with code", 700)
    assert "start 1: 2 tasks" in said
    assert f"at step {step} of 300: state and place in the data restored" in said
    assert said.rstrip().endswith("Ended with code 0.")
