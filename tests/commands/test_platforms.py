"""Windows has no fcntl, resource, termios or SIGALRM: what starts there must not ask for them.

The programs run here with those modules refused to our own code.  Packages from elsewhere have
builds of their own for each system.
"""

import os
import pathlib
import subprocess
import sys

import numpy as np

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.data.images import write_image

ROOT = pathlib.Path(__file__).parent.parent.parent

WITHOUT_POSIX = """
import builtins, runpy, signal, sys

POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
ordinary = builtins.__import__


def without_posix(name, globals=None, *args, **kwargs):
    ours = str((globals or {}).get("__name__", "")).startswith("tpgdiff_jax")
    if ours and name.partition(".")[0] in POSIX:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return ordinary(name, globals, *args, **kwargs)


builtins.__import__ = without_posix
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "alarm"):
    delattr(signal, name)
sys.argv = ["main", *sys.argv[1:]]
runpy.run_module("tpgdiff_jax.main", run_name="__main__")
"""


def run(*flags):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX, *map(str, flags)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_needs_no_posix():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert "--mode=restore" in done.stdout


def test_a_configuration_is_checked_without_posix():
    done = run("--config=configs/quickstart.py", "--config.model.prediction=y")
    assert done.returncode == 2
    assert "config.model.prediction" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_picture_is_restored_without_posix(tiny_system, tmp_path):
    weights = tmp_path / "weights.safetensors"
    description = published.describe(tiny_system.config)
    published.save(weights, tiny_system.variables["params"], description)
    write_image(tmp_path / "in" / "a.png", np.zeros((16, 16, 3), np.uint8))
    flags = [f"--checkpoint={weights}", f"--input={tmp_path / 'in'}", "--steps=1"]
    done = run("--mode=restore", *flags, f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "1 restored" in done.stdout


def test_a_run_trains_a_step_without_posix(tiny_experiment, tmp_path):
    smaller = ("--config.model.use_semantic=False", "--config.model.use_structure=False")
    flags = [f"--config={tiny_experiment}", f"--workdir={tmp_path / 'run'}", *smaller]
    done = run(*flags, "--config.optim.steps=1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()
