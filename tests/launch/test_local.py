"""launch/local.sh: with a stand-in for the program, and (slow) with real processes."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from local_processes import ROOT, check_same, children, finish, losses, wait_for_step
from PIL import Image

from tpgdiff_jax.checkpoints import published


def test_every_process_gets_its_place_and_says_so_behind_its_number(local):
    process = local(3, "--workdir=a b", program='echo "$3|${*: -1}" >&2; echo "$JAX_PLATFORMS"')
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert out == "cpu\n"
    lines = sorted(line for line in errors.splitlines() if "|" in line)
    assert lines == [
        "--workdir=a b|--process_id=0",
        "[1] --workdir=a b|--process_id=1",
        "[2] --workdir=a b|--process_id=2",
    ]


@pytest.mark.parametrize(("codes", "expected"), [("0 3", 3), ("3 2", 2), ("2 3", 2), ("0 0", 0)])
def test_the_code_is_that_of_the_process_that_failed(local, codes, expected):
    program = f'all=({codes}); last="${{*: -1}}"; exit "${{all[${{last#*=}}]}}"'
    process = local(2, "--x", program=program)
    process.communicate(timeout=60)
    assert process.returncode == expected


@pytest.mark.parametrize("count", ["", "0", "two"])
def test_a_mistyped_number_is_one_sentence(local, count):
    process = local(count, "--x")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == f"error: the first argument is the number of processes; found '{count}'.\n"


SAVES = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("begun", flush=True)
signal.sigwait([signal.SIGINT])
sys.stderr.write("saved\\n")  # at once: sys.exit("saved") writes the line's end by itself
sys.exit(1)
"""


def test_what_processes_say_after_ctrl_c_is_shown(local, tmp_path):
    (tmp_path / "saves.py").write_text(SAVES)
    process = local(2, "--x", program=f"exec {sys.executable} {tmp_path / 'saves.py'}")
    assert process.stdout.readline() == "begun\n"
    assert process.stderr.readline() == "[1] begun\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert sorted(errors.splitlines()) == ["[1] saved", "saved"]


# -- Real processes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known():
    """The losses of one process, once a test has asked for them."""
    return {}


@pytest.fixture
def undisturbed(local, small_flags, tmp_path, known):
    """The losses of one process; the photos are the same for all tests."""
    if not known:
        workdir = tmp_path / "alone"
        code, said = finish(local(1, *small_flags, f"--workdir={workdir}"))
        assert code == 0, said
        known.update(losses(workdir))
    return known


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 2), (4, 2), (2, 4)])
def test_sigterm_to_one_saves_all_at_one_step_and_any_number_goes_on(
    local, small_flags, tmp_path, undisturbed, first, then
):
    workdir = tmp_path / "run"
    flags = (*small_flags, f"--workdir={workdir}")
    process = local(first, *flags)
    wait_for_step(process, workdir, 5)
    os.kill(children(process)[first - 1], signal.SIGTERM)
    code, said = finish(process)
    assert code == 0, said
    assert said.count("Stopped before its end") == 1
    (saved,) = {
        int(line.split("saved at step ")[1].split()[0])
        for line in said.splitlines()
        if "saved at step" in line
    }
    assert (workdir / "checkpoints" / str(saved)).is_dir()
    code, said = finish(local(then, *flags))
    assert code == 0, said
    assert f"at step {saved} of 40" in said
    check_same(workdir, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 1), (2, 0), (4, 2)])
def test_a_killed_process_is_named_and_the_run_goes_on(
    local, small_flags, tmp_path, undisturbed, count, victim
):
    workdir = tmp_path / "run"
    flags = (*small_flags, f"--workdir={workdir}")
    process = local(count, *flags)
    wait_for_step(process, workdir, 5)
    os.kill(children(process)[victim], signal.SIGKILL)
    began = time.monotonic()
    code, said = finish(process)
    assert time.monotonic() - began < 60
    assert code == 137, said
    assert said.count(f"error: process {victim} of {count}") == count - 1, said
    code, said = finish(local(2, *flags))
    assert code == 0, said
    check_same(workdir, undisturbed)


@pytest.mark.slow
def test_a_process_that_cannot_write_ends_all_with_its_reason(local, small_flags, tmp_path):
    workdir = tmp_path / "run"
    flags = (*small_flags, f"--workdir={workdir}", "--config.checkpoint.every_steps=5")
    process = local(2, *flags)
    wait_for_step(process, workdir, 5)
    # Whoever writes the next checkpoint cannot: a file stands where its folder would be.
    checkpoints = workdir / "checkpoints"
    checkpoints.rename(workdir / "moved")
    checkpoints.touch()
    began = time.monotonic()
    code, said = finish(process)
    assert code in (1, 2), said
    assert time.monotonic() - began < 60
    assert "could not be written" in said
    assert list(workdir.glob("crash_process_*.txt"))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_restored_files_are_those_of_one_process_and_of_shares(
    local, tiny_system, photo_folder, tmp_path, count
):
    weights = tmp_path / "weights.safetensors"
    published.save(weights, tiny_system.variables["params"], published.describe(tiny_system.config))
    flags = ("--mode=restore", f"--checkpoint={weights}", f"--input={photo_folder}")
    results = {}
    for name, started in (("alone", 1), ("together", count)):
        code, said = finish(local(started, *flags, f"--output={tmp_path / name}"))
        assert code == 0, said
    for index in range(count):
        words = [sys.executable, "-m", "tpgdiff_jax.main", *flags, f"--share={index}/{count}"]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
        subprocess.run(
            [*words, f"--output={tmp_path / 'shares'}"], cwd=ROOT, env=environment, check=True
        )
    for name in ("alone", "together", "shares"):
        paths = sorted((tmp_path / name).glob("*.png"))
        results[name] = {path.name: np.asarray(Image.open(path)).tolist() for path in paths}
    assert len(results["alone"]) == 3
    assert results["together"] == results["alone"]
    assert results["shares"] == results["alone"]
