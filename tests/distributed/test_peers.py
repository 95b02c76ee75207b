"""One of two real processes dies, fails or stops answering: the other ends, and says which."""

import os
import re
import signal
import time

import pytest

# A loop as training has it: a message between the devices in every turn, or waiting for the other.
LOOP = """
import os, pathlib, sys, time
import jax
address, count, index, folder, busy = sys.argv[1:]
jax.distributed.initialize(address, int(count), int(index))
import numpy as np
from jax.experimental import multihost_utils
from tpgdiff_jax.commands.together import ending_together
from tpgdiff_jax.distributed import agreement, peers
from tpgdiff_jax.reporting.errors import UserError
peers._SILENCE = 4
peers.watch()
assert agreement.differing({"same": "a", "other": "b"}) is None
assert agreement.differing({"same": "a", "other": index}) == (1, ["other"])
assert agreement.differing({f"name {index}": "a"}) == (1, [f"name {index}"])
trouble = pathlib.Path(folder, f"trouble_{index}")
with ending_together(pathlib.Path(folder)):
    for turn in range(10000):
        if busy == "busy":
            multihost_utils.process_allgather(np.ones(3))
        if turn == 0:
            print("begun", flush=True)
        if trouble.exists():
            word = trouble.read_text()
            if word == "done":
                break
            if word == "abort":
                os.abort()
            if word == "slow":
                linger = peers.linger
                peers.linger = lambda: time.sleep(1.5) or linger()
            raise {"ours": RuntimeError}.get(word, UserError)("the disk is full")
        time.sleep(0.05)
print("ended", flush=True)
"""


PARTED = """
import os, sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from tpgdiff_jax.distributed import peers
peers.watch()
peers.part()
if sys.argv[3] == "abort":
    os.abort()
"""


@pytest.fixture
def two(tmp_path, free_address, start_python):
    """`two(busy)` -> two processes that have begun."""
    started = []

    def start(busy):
        for index in range(2):
            started.append(start_python(LOOP, free_address, 2, index, tmp_path, busy))
        for process in started:
            while (line := process.stdout.readline()) != "begun\n":  # gloo speaks before
                assert line, process.stderr.read()
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def end_of(process, seconds=60):
    said = process.communicate(timeout=seconds)
    return process.returncode, *said


@pytest.mark.parametrize(
    ("victim", "busy"), [(1, "busy"), (0, "busy"), (1, "waiting"), (0, "waiting")]
)
def test_a_killed_process_is_named_by_the_other(two, victim, busy):
    both = two(busy)
    killed, other = both[victim], both[1 - victim]
    killed.send_signal(signal.SIGKILL)
    code, _, said = end_of(other)
    assert code == 3, said
    last = said.strip().splitlines()[-1]
    assert re.match(rf"error: process {victim} of 2 .*has died", last), said
    assert last.endswith(f"Process {1 - victim} ends, too; the same command continues.")
    assert "Traceback" not in said


def test_a_process_that_stops_answering_is_named(two):
    both = two("waiting")
    both[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    code, _, said = end_of(both[0])
    both[1].send_signal(signal.SIGCONT)
    assert code == 3
    assert f"process 1 of 2 ({os.uname().nodename}, pid {both[1].pid}) has died: no sign" in said
    assert time.monotonic() - began < 30


def test_an_abort_that_follows_from_a_lost_process_names_that_one(two, tmp_path):
    both = two("waiting")
    both[1].send_signal(signal.SIGKILL)
    (tmp_path / "trouble_0").write_text("abort")
    code, _, said = end_of(both[0])
    assert code == 3, said
    assert re.match("error: process 1 of 2 .*has died", said.strip().splitlines()[-1]), said


@pytest.mark.parametrize("victim", [0, 1])
def test_an_abort_of_a_process_that_parted_is_its_own(start_python, free_address, victim):
    """Process 0's service is gone then, and nobody is to blame for that."""
    started = [
        start_python(PARTED, free_address, index, index == victim and "abort") for index in range(2)
    ]
    ends = [end_of(process) for process in started]
    code, _, said = ends[victim]
    assert code == -signal.SIGABRT, said
    assert "has died" not in said
    assert ends[1 - victim][0] == 0


@pytest.mark.parametrize(("failing", "word", "code"), [(1, "user", 2), (0, "ours", 1)])
def test_a_process_that_fails_tells_the_other_why(two, tmp_path, failing, word, code):
    both = two("busy")
    (tmp_path / f"trouble_{failing}").write_text(word)
    found, _, said = end_of(both[failing])
    assert found == code, said
    assert ("Traceback" in said) == (word == "ours")
    assert "the disk is full" in said
    found, _, said = end_of(both[1 - failing])
    assert found == 3, said
    assert f"error: process {failing} of 2" in said
    assert "failed: the disk is full. Process" in said
    # Only the one that failed describes its end.
    (report,) = tmp_path.glob("crash_process_*.txt")
    assert report.name == f"crash_process_{failing}.txt"
    text = report.read_text()
    assert "the disk is full" in text
    assert ("Traceback" in text) == (word == "ours")
    assert f"process {failing} of 2" in text


def test_processes_that_fail_together_each_say_why(two, tmp_path):
    """Process 0 holds the service without which JAX aborts the other."""
    for index, word in enumerate(("user", "slow")):
        (tmp_path / f"trouble_{index}").write_text(word)
    for process in two("busy"):
        code, _, said = end_of(process)
        assert (code, said.splitlines()[-1]) == (2, "error: the disk is full"), said


def test_processes_wait_for_each_others_end(two, tmp_path):
    both = two("waiting")
    (tmp_path / "trouble_0").write_text("done")
    time.sleep(1)
    assert both[0].poll() is None
    (tmp_path / "trouble_1").write_text("done")
    for process in both:
        code, said, errors = end_of(process)
        assert (code, said.splitlines()[-1]) == (0, "ended"), errors
    assert not list(tmp_path.glob("crash*"))
