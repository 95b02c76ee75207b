"""Ctrl-C: one sentence and exit code 130; a second one ends at once."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tpgdiff_jax import main
from tpgdiff_jax.commands.ending import stopped_exit_code
from tpgdiff_jax.reporting.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent

# A main thread that Python can interrupt, or one inside a call that goes on after a signal, like
# XLA's compiler: here it waits for a lock that it holds itself.
PROGRAM = """
import ctypes, sys, threading, time
from tpgdiff_jax.commands.ending import ending_on_ctrl_c
from tpgdiff_jax.commands.mode_flags import define_flags
from tpgdiff_jax.reporting.progress import Progress

busy, sys.argv = sys.argv[1], ["main", "--mode=restore", "--input=x"]
define_flags()
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
with ending_on_ctrl_c(), Progress(9, "restoring", speaks=False) as progress:
    progress.advance(4)
    if busy == "thread":
        threading.Thread(target=time.sleep, args=[60]).start()
    if busy in ("python", "thread"):
        print("begun", flush=True)
        time.sleep(60)
    libc.pthread_mutex_lock(lock)
    threading.Timer(1, print, ["begun"], {"flush": True}).start()
    libc.pthread_mutex_lock(lock)
"""


def start(busy):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, busy],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "begun\n"
    return process


def test_once_is_a_sentence():
    process = start("python")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert (
        "Stopped by Ctrl-C (restoring: 4 of 9 images done). Results that are there are whole; "
        "the same command makes those that are missing."
    ) in said.splitlines()


def test_what_devices_still_compute_is_not_waited_for():
    process = start("thread")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Stopped by Ctrl-C" in said


def test_twice_ends_at_once_whatever_the_program_does():
    process = start("deaf")
    for _ in range(2):
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert said.splitlines() == [
        *("", "Ctrl-C: ends once the computation at hand is done; a second one ends at once."),
        *("", "Ended at once by a second Ctrl-C."),
    ]


@pytest.mark.parametrize(
    ("typed", "code"), [(None, 0), ("", 0), ("1", 1), ("75", 75), ("125", 125)]
)
def test_the_environment_chooses_how_a_stopped_run_leaves(monkeypatch, typed, code):
    monkeypatch.delenv("TPGDIFF_STOPPED_EXIT_CODE", raising=False)
    if typed is not None:
        monkeypatch.setenv("TPGDIFF_STOPPED_EXIT_CODE", typed)
    assert stopped_exit_code() == code


@pytest.mark.parametrize("typed", ["0", "126", "-1", "x", "7.5", "\u00b2"])
def test_a_code_that_is_none_is_refused_before_anything_starts(monkeypatch, typed):
    monkeypatch.setenv("TPGDIFF_STOPPED_EXIT_CODE", typed)
    monkeypatch.setattr(main, "FLAGS", {})  # whoever goes on fails
    with pytest.raises(UserError, match=f"_CODE={typed}: expected a whole number from 1 to 125"):
        main.main([])
