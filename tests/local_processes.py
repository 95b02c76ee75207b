"""Programs of several real processes on this machine: started, watched, compared.

A plugin of pytest (see conftest.py), for its fixtures; its functions are imported.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SMALLER = ("--config.model.use_semantic=False", "--config.model.use_structure=False")


@pytest.fixture
def local(tmp_path):
    """`local(2, *flags, python=code)` -> launch/local.sh, running in this environment."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    wanted = "source launch/environment.sh; wanted_stamp"
    stamp = subprocess.run(["bash", "-c", wanted], cwd=ROOT, capture_output=True, check=True)
    (venv / ".installed-run").write_bytes(stamp.stdout.rstrip(b"\n"))
    started = []

    def start(count, *flags, program=""):
        body = f'exec {sys.executable} "$@"'
        if program:
            body = f'if [ "$1" = -m ]; then {program}; else {body}; fi'
        python = venv / "bin" / "python"
        python.write_text(f"#!/bin/bash\n{body}\n")
        python.chmod(0o755)
        process = subprocess.Popen(
            ["bash", ROOT / "launch" / "local.sh", str(count), *map(str, flags)],
            env=os.environ | {"TPGDIFF_VENV": str(venv)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a process group of its own, as in a terminal
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for pid in children(process).values():
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.communicate()


def children(process):
    """Return number -> process id of the program's processes that are there."""
    words = ["pgrep", "-P", str(process.pid), "-a", "-f", "process_id="]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    return {int(li.rpartition("process_id=")[2]): int(li.split()[0]) for li in said.splitlines()}


def losses(workdir):
    """Return step -> loss of a run."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def finish(process, seconds=300):
    """Wait for a program; return (its code, all that it wrote)."""
    said = process.communicate(timeout=seconds)
    return process.returncode, "".join(said)


def wait_for_step(process, workdir, step):
    """Wait until a run has come to a step; its program must not end before."""
    deadline = time.monotonic() + 240
    path = workdir / "metrics.jsonl"
    while not (path.is_file() and path.stat().st_size and max(losses(workdir), default=0) >= step):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def small_flags(tiny_experiment):
    """Flags of a run of 40 steps without the costlier priors."""
    return (f"--config={tiny_experiment}", "--config.optim.steps=40", *SMALLER)


def check_same(workdir, expected):
    """Check that a run has the losses of another, up to the order of sums over processes."""
    found = losses(workdir)
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=1e-4), step
