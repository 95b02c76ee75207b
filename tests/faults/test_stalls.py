"""Processes of one run that stand still, are slow, or cannot meet: a clear end in bounded time."""

import os
import signal
import socket
import time

import pytest
from local_processes import check_same, children, finish, losses, wait_for_step
from training_runs import start, write_experiment

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.fixture
def undisturbed(local, small_flags, tmp_path):
    """The losses of one process."""
    workdir = tmp_path / "alone"
    code, said = finish(local(1, *small_flags, f"--workdir={workdir}"))
    assert code == 0, said
    return losses(workdir)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_stands_still(local, small_flags, tmp_path, undisturbed, victim, figure):
    workdir = tmp_path / "run"
    flags = (*small_flags, f"--workdir={workdir}")
    process = local(2, *flags)
    wait_for_step(process, workdir, 5)
    there = children(process)
    os.kill(there[victim], signal.SIGSTOP)
    begun = time.monotonic()
    while there.keys() - {victim} & children(process).keys():
        assert time.monotonic() - begun < 120, "the other one waits for ever"
        time.sleep(0.1)
    seconds = time.monotonic() - begun
    # It wakes up and finds itself alone.
    os.kill(there[victim], signal.SIGCONT)
    code, said = finish(process, 120)
    assert code != 0
    assert f"error: process {victim} of 2" in said
    code, said = finish(local(2, *flags))
    assert code == 0, said
    check_same(workdir, undisturbed)
    figure(
        f"process {victim} of 2 stopped: the other ended after {seconds:.0f} s; resumed the same"
    )


def test_a_process_that_is_slow(local, small_flags, tmp_path, undisturbed, figure):
    workdir = tmp_path / "run"
    process = local(2, *small_flags, f"--workdir={workdir}")
    for step in (5, 10, 15):
        wait_for_step(process, workdir, step)
        pid = children(process)[1]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(8)
        os.kill(pid, signal.SIGCONT)
    code, said = finish(process)
    assert code == 0, said
    check_same(workdir, undisturbed)
    figure("one of two stopped three times for 8 s: the run goes on, the same")


@pytest.mark.parametrize("who", ["program", "nobody"])
def test_an_address_where_processes_cannot_meet(tiny_config, tmp_path, who, figure):
    """Another program listens there, or process 0 never comes."""
    experiment = tmp_path / "tiny.py"
    write_experiment(experiment, tiny_config)
    begun = time.monotonic()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if who == "program":
            taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        flags = (f"--coordinator={address}", "--num_processes=2")
        numbers = (0, 1) if who == "program" else (1,)
        started = [
            start(experiment, tmp_path / "run", *flags, f"--process_id={n}") for n in numbers
        ]
        said = [process.communicate(timeout=400)[1] for process in started]
    seconds = time.monotonic() - begun
    for process, text in zip(started, said, strict=True):
        assert process.returncode not in (0, None)
        assert address in text
        assert "Traceback" not in text
    figure(f"{who} listens at the address: refused by a sentence after {seconds:.0f} s")
