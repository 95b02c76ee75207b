"""Checkpoints of processes that die while writing, and of two that must agree."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.runs.manager import RunCheckpoints

ROOT = pathlib.Path(__file__).parent.parent.parent

WRITES_MUCH = """
import sys
import jax.numpy as jnp
from tpgdiff_jax.runs.manager import RunCheckpoints
with RunCheckpoints(sys.argv[1], keep=9) as checkpoints:
    for step in range(1, 1000):
        state = {"x": jnp.arange(2**23, dtype=jnp.float32) + step}
        checkpoints.save(step, state, {"batches": step})
"""

CONTINUES = """
import sys
import jax
coordinator, index, folder = sys.argv[1:]
jax.distributed.initialize(coordinator, 2, int(index))
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.runs.reading import abstract
rows = {"x": NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))}
state = jax.jit(lambda: {"x": jnp.arange(8.0)}, out_shardings=rows)()
with RunCheckpoints(folder, keep=9) as checkpoints:
    step, found, data = checkpoints.restore_latest(abstract(state, rows))
    assert found["x"].sharding == rows["x"]
    state = jax.jit(lambda s: {"x": s["x"] + 1}, out_shardings=rows)(found)
    checkpoints.save(step + 1, state, {"batches": step + 1})
    print("continued", step, data, flush=True)
"""


def start(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def on_first_device(size):
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {"x": jax.ShapeDtypeStruct((size,), jnp.float32, sharding=where)}


def test_killed_while_writing(tmp_path):
    process = start(WRITES_MUCH, tmp_path)
    deadline = time.monotonic() + 120
    unfinished = []
    while not unfinished or not (tmp_path / "2").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        unfinished = list(tmp_path.glob("*.orbax-checkpoint-tmp"))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    complete = max(int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    with RunCheckpoints(tmp_path, keep=9) as checkpoints:
        step, state, data = checkpoints.restore_latest(on_first_device(2**23))
        assert step == complete
        assert data == {"batches": step}
        np.testing.assert_array_equal(state["x"], np.arange(2**23, dtype=np.float32) + step)
        checkpoints.save(step + 1, state, {})
    assert not list(tmp_path.glob("*.orbax-checkpoint-tmp"))


def test_two_processes_agree_on_the_newest_sound_step(tmp_path):
    with RunCheckpoints(tmp_path, keep=9) as checkpoints:
        for step in (10, 11):
            checkpoints.save(step, {"x": jnp.arange(8.0) + step}, {"batches": step})
    shutil.rmtree(tmp_path / "11" / "state" / "d")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [start(CONTINUES, coordinator, index, tmp_path) for index in range(2)]
    ends = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert {output.strip().splitlines()[-1] for output, _ in ends} == {
        "continued 10 {'batches': 10}"
    }
    assert {path.name for path in tmp_path.iterdir()} == {"10", "11", "11.corrupt"}
    with RunCheckpoints(tmp_path, keep=9) as checkpoints:
        _, state, _ = checkpoints.restore_latest(on_first_device(8))
    assert state["x"].tolist() == list(range(11, 19))
