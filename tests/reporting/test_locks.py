"""Locks: one holder, gone with its process; a file system without them costs a warning."""

import errno
import fcntl
import subprocess
import sys

import pytest

from tpgdiff_jax.reporting import locks

HOLD = """
import pathlib, sys
from tpgdiff_jax.reporting import locks
path = pathlib.Path(sys.argv[1])
lock = locks.take(path, path.parent)
print("held", flush=True)
sys.stdin.read()
"""


def test_one_holder_at_a_time(tmp_path):
    refused = RuntimeError("taken")
    path = tmp_path / ".lock"
    with (
        locks.held(path, tmp_path, refused),
        pytest.raises(RuntimeError, match="taken"),
        locks.held(path, tmp_path, refused),
    ):
        pass
    with locks.held(path, tmp_path, refused):
        pass


def test_a_lock_goes_with_its_process(tmp_path):
    path = tmp_path / ".lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], **pipes) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(locks.HeldElsewhereError):
                locks.take(path, tmp_path)
        finally:
            other.kill()
    lock = locks.take(path, tmp_path, wait=True)
    lock.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_without_locks_a_program_goes_on_with_a_warning(tmp_path, monkeypatch, caplog, number):
    def flock(*_):
        raise OSError(number, "No locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locks.held(tmp_path / ".lock", tmp_path, RuntimeError()):
        pass
    assert f"{tmp_path} cannot be locked (No locks here)" in caplog.text


def test_other_errors_of_locking_are_not_hidden(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(OSError, match="Input/output"),
        locks.held(tmp_path / ".lock", tmp_path, RuntimeError()),
    ):
        pass
