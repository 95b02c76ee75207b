"""Disks that are full, read-only or gone, and a clock that jumps back, while a run trains."""

import os
import pathlib
import shutil
import subprocess
import time

import pytest
import training_runs
from training_runs import ROOT, assert_same, finish, metrics, start_program, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.fixture
def config(tiny_config):
    tiny_config.optim.steps = 40
    tiny_config.checkpoint.every_steps = 5
    return tiny_config


@pytest.fixture
def start():
    """`start(experiment, workdir, *flags)` -> the program; it ends with the test."""
    started = []

    def call(*arguments):
        started.append(training_runs.start(*arguments))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def straight(start, experiment, tmp_path):
    """An undisturbed run."""
    finish(start(experiment, tmp_path / "straight"))
    return tmp_path / "straight"


@pytest.fixture
def disk(tmp_path):
    """`disk("size=60m")` mounts, or mounts again, a small disk; returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        again = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
            pytest.skip("no right to mount a file system here")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def failed(process, seconds=400):
    """Wait for a program that must fail; return (what it said, the seconds that took)."""
    begun = time.monotonic()
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode in (1, 2), (process.returncode, errors)
    # Libraries may print tracebacks of their threads; ours is a sentence.
    assert f'File "{ROOT / "tpgdiff_jax"}' not in errors
    assert sum(line.startswith("error: ") for line in errors.splitlines()) == 1
    return errors, time.monotonic() - begun


def test_a_disk_that_fills_while_training(start, experiment, config, straight, disk, figure):
    workdir = disk("size=60m") / "run"
    errors, _ = failed(start(experiment, workdir))
    assert "No space left" in errors
    assert str(workdir) in errors
    reached = max(metrics(workdir))
    disk("size=600m")
    finish(start(experiment, workdir))
    assert_same(config, straight, workdir)
    assert not list(workdir.rglob("*orbax-checkpoint-tmp"))
    figure(f"disk full at step {reached} of 40: one sentence; with room, the same run to the bit")


def test_a_log_that_does_not_fit(start, experiment, config, straight, disk, figure):
    """The last bytes of the disk go between two checkpoints, so a line of the log fails."""
    workdir = disk("size=600m") / "run"
    process = start(experiment, workdir)
    wait_until(lambda: (workdir / "checkpoints" / "5").is_dir(), process)
    free = shutil.disk_usage(workdir).free
    with (workdir.parent / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - 4096)
    errors, seconds = failed(process)
    assert "No space left" in errors
    (workdir.parent / "ballast").unlink()
    finish(start(experiment, workdir))
    assert_same(config, straight, workdir)
    figure(f"log that cannot be written: one sentence after {seconds:.0f} s; then the same run")


def test_a_folder_that_vanishes(start, experiment, config, straight, tmp_path, figure):
    workdir, away = tmp_path / "run", tmp_path / "away"
    process = start(experiment, workdir)
    wait_until(lambda: (workdir / "checkpoints" / "10").is_dir(), process)
    workdir.rename(away)
    errors, seconds = failed(process)
    assert str(workdir) in errors
    # Nothing that looks like a run was begun where it had been.
    assert not (workdir / "config.json").exists()
    shutil.rmtree(workdir, ignore_errors=True)
    away.rename(workdir)
    finish(start(experiment, workdir))
    assert_same(config, straight, workdir)
    figure(f"workdir moved away: one sentence after {seconds:.0f} s; moved back, the same")


def test_a_disk_that_turns_read_only(start, experiment, disk, figure):
    folder = disk("size=600m")
    disk("ro")
    photos = "--input=configs/quickstart_photos"
    for begin in (
        lambda where: start(experiment, where),
        lambda where: start_program("--mode=restore", photos, f"--output={where}"),
    ):
        where = folder / "run"
        errors, _ = failed(begin(where))
        assert str(where) in errors
        assert "Read-only file system" in errors
    figure("read-only disk: training and restoring are refused by a sentence")


_FAKETIME = pathlib.Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


# TensorStore (0.1.86) waits until a time of the clock, so a write then stands still as long.
_STANDS_STILL = pytest.mark.xfail(strict=True, raises=subprocess.TimeoutExpired)


@pytest.mark.skipif(not _FAKETIME.exists(), reason="libfaketime is not installed")
@pytest.mark.parametrize("back", [20, pytest.param(2 * 24 * 3600, marks=_STANDS_STILL)])
def test_a_clock_that_jumps_back(
    start, experiment, config, straight, tmp_path, monkeypatch, figure, back
):
    clock, workdir = tmp_path / "clock", tmp_path / "run"
    clock.write_text("+0\n")
    with monkeypatch.context() as faked:
        faked.setenv("LD_PRELOAD", str(_FAKETIME))
        faked.setenv("FAKETIME_TIMESTAMP_FILE", str(clock))
        faked.setenv("FAKETIME_CACHE_DURATION", "1")  # seconds between two looks at the file
        faked.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        process = start(experiment, workdir)
    wait_until(lambda: (workdir / "checkpoints" / "10").is_dir(), process)
    clock.write_text(f"-{back}\n")
    finish(process)
    assert_same(config, straight, workdir)
    figure(f"clock {back} s back between two steps: the same run to the bit")
