"""SIGTERM and Ctrl-C: one process, and two real ones that must stop at the same step."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest

from tpgdiff_jax.runs import preemption
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.runs.preemption import Preemption

ROOT = pathlib.Path(__file__).parent.parent.parent

# A loop as training has it: a global array, a collective in every step, a save now and then.
LOOP = """
import sys, time
import jax, jax.numpy as jnp
coordinator, count, index, folder = sys.argv[1:]
if coordinator != "none":
    jax.distributed.initialize(coordinator, int(count), int(index))
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tpgdiff_jax.runs import preemption
from tpgdiff_jax.runs.manager import RunCheckpoints

mesh = Mesh(jax.devices(), ("data",))
rows = NamedSharding(mesh, PartitionSpec("data"))
make = jax.jit(lambda: {"x": jnp.ones(8)}, out_shardings={"x": rows})
count = lambda s: {"x": s["x"] + s["x"].mean() / s["x"].mean()}
step_fn = jax.jit(count, out_shardings={"x": rows})
with RunCheckpoints(folder, keep=2) as checkpoints:
    state = make()
    checkpoints.reached_preemption()
    for step in range(1, 2000):
        state = step_fn(state)
        jax.block_until_ready(state)
        stop = checkpoints.reached_preemption()
        if stop or step % 10 == 0:
            checkpoints.save(step, state, {"batches": step})
        print("step", step, flush=True)
        if stop:
            print("stopped", step, flush=True)
            break
        time.sleep(0.02)
"""


def test_an_end_that_all_agreed_on_is_told_to_every_later_question(monkeypatch):
    """JAX says so once only; a run of several stages asks in each of them."""
    answers = iter([False, True, False, False])
    monkeypatch.setattr(preemption, "_AGREED", threading.Event())
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        preemption.multihost_utils, "reached_preemption_sync_point", lambda _: next(answers)
    )
    with Preemption() as first:
        assert [first.reached() for _ in range(2)] == [False, True]
    with Preemption() as second:
        assert [second.reached() for _ in range(2)] == [True, True]


def test_handler_is_put_back(capfd):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("first"))
    try:
        with Preemption() as preemption:
            assert not preemption.requested()
            assert not preemption.reached()
            signal.raise_signal(signal.SIGTERM)
            assert preemption.requested()
            assert preemption.reached()
            assert seen == []
            # The second signal does what it did before.
            signal.raise_signal(signal.SIGTERM)
            assert seen == ["first"]
        with Preemption() as preemption:
            pass
        signal.raise_signal(signal.SIGTERM)
        assert seen == ["first", "first"]
        assert not preemption.requested()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_ctrl_c_is_left_to_the_operating_system(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(preemption, "_INTERRUPTED", threading.Event())
    with Preemption() as asked:
        assert not preemption.was_interrupted()
        signal.raise_signal(signal.SIGINT)
        assert asked.reached()
        assert preemption.was_interrupted()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


def test_only_asking_catches_the_signal(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with RunCheckpoints(tmp_path, keep=1) as checkpoints:
        assert signal.getsignal(signal.SIGTERM) == before
        assert not checkpoints.reached_preemption()
        assert signal.getsignal(signal.SIGTERM) != before
        signal.raise_signal(signal.SIGTERM)
        assert checkpoints.reached_preemption()
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_are_refused():
    refused = []

    def enter():
        try:
            Preemption().__enter__()
        except ValueError as error:
            refused.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert "main thread" in refused[0]


def start(tmp_path, coordinator, count, index):
    arguments = [coordinator, str(count), str(index), str(tmp_path / "checkpoints")]
    quick = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", LOOP, *arguments],
        env=os.environ | quick | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, line):
    while (found := process.stdout.readline()).strip() != line:
        assert found, process.stderr.read()


@pytest.mark.parametrize(
    ("count", "told", "number"),
    [
        (1, 0, signal.SIGTERM),
        (1, 0, signal.SIGINT),
        (2, 1, signal.SIGTERM),
        (2, 0, signal.SIGINT),
    ],
)
def test_all_processes_save_and_stop_at_the_same_step(tmp_path, count, told, number):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}" if count > 1 else "none"
    processes = [start(tmp_path, coordinator, count, index) for index in range(count)]
    wait_for(processes[told], "step 15")
    processes[told].send_signal(number)
    sent = time.monotonic()
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, ends
    last = {output.strip().splitlines()[-1] for output, _ in ends}
    assert len(last) == 1
    word, step = last.pop().split()
    assert word == "stopped"
    assert time.monotonic() - sent < 60
    place = tmp_path / "checkpoints" / step / "data" / "metadata"
    assert json.loads(place.read_text()) == {"batches": int(step)}
    shape = jax.ShapeDtypeStruct(
        (8,), jax.numpy.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    with RunCheckpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        found = checkpoints.restore_latest({"x": shape})
    assert found[0] == int(step)
    assert found[1]["x"].tolist() == [1.0 + int(step)] * 8
