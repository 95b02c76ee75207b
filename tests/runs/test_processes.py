"""Checkpoints of processes that die while writing, and of two that must agree."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
import pathlib
import sys
import jax
from tpgdiff_jax.stores import places
coordinator, index, folder, kind = sys.argv[1:]
jax.distributed.initialize(coordinator, 2, int(index))

def own_folder(folder, index):
    # What this process calls the run's folder: the same, or one of its machine.
    if kind == "shared":
        return folder
    own = pathlib.Path(folder).with_name(f"machine_{index}")
    if kind == "copies":
        places.remember(own, "s3://bucket/run")
    return own

import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.runs.reading import abstract
rows = {"x": NamedSharding(Mesh(jax.devices(), ("data",)), PartitionSpec("data"))}
state = jax.jit(lambda: {"x": jnp.arange(8.0)}, out_shardings=rows)()
folder = own_folder(folder, index)
with RunCheckpoints(folder, keep=9) as checkpoints:
    step, found, data = checkpoints.restore_latest(abstract(state, rows))
    assert found["x"].sharding == rows["x"]
    state = jax.jit(lambda s: {"x": s["x"] + 1}, out_shardings=rows)(found)
    checkpoints.save(step + 1, state, {"batches": step + 1}, {"psnr": 1.0})
    whole = {"x": NamedSharding(rows["x"].mesh, PartitionSpec())}
    state = jax.jit(lambda s: {"x": s["x"] * 2}, out_shardings=whole)(state)
    checkpoints.save(step + 2, state, {"batches": step + 2})
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


def continue_with_two(address, folder, kind, without=()):
    """Continue a run whose newest step is damaged in two processes; return them and their words."""
    with RunCheckpoints(folder, keep=9) as checkpoints:
        for step in (10, 11):
            checkpoints.save(step, {"x": jnp.arange(8.0) + step}, {"batches": step})
    shutil.rmtree(folder / "11" / "state" / "d")
    for index in range(2):
        shutil.copytree(folder, folder.with_name(f"machine_{index}"))
    for lost in without:
        shutil.rmtree(folder.with_name("machine_1") / lost)
    processes = [start(CONTINUES, address, index, folder, kind) for index in range(2)]
    ends = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], ends


@pytest.mark.parametrize("kind", ["shared", "copies"])
def test_two_processes_agree_on_the_newest_sound_step(tmp_path, free_address, kind):
    codes, ends = continue_with_two(free_address, tmp_path / "run", kind)
    assert codes == [0, 0], ends
    assert {output.strip().splitlines()[-1] for output, _ in ends} == {
        "continued 10 {'batches': 10}"
    }
    written = tmp_path / ("run" if kind == "shared" else "machine_0")
    assert {path.name for path in written.iterdir()} == {"10", "11", "11.corrupt", "12"}
    if kind == "copies":  # process 0 writes for all
        names = {path.name for path in (tmp_path / "machine_1").iterdir()}
        assert names == {"10", "11"}
    with RunCheckpoints(written, keep=9) as checkpoints:
        assert checkpoints.best_step() == 11
        state, _ = checkpoints.restore(11, on_first_device(8))
        assert state["x"].tolist() == list(range(11, 19))
        state, _ = checkpoints.restore(12, on_first_device(8))
        assert state["x"].tolist() == list(range(22, 38, 2))


def test_a_folder_that_not_all_processes_see_is_refused(tmp_path, free_address):
    codes, ends = continue_with_two(free_address, tmp_path / "run", "strange")
    assert codes == [1, 1], ends
    for _, said in ends:
        assert " of process 0 is not seen by process 1 (of 2, 1 do not see it)" in said
        assert "a folder that every machine mounts, or an address" in said
    assert not list(tmp_path.glob("*/.process_*"))


@pytest.mark.parametrize(("lost", "step"), [(("11",), 10), (("10", "11"), None)])
def test_machines_go_on_from_a_step_that_all_have(tmp_path, free_address, lost, step):
    codes, ends = continue_with_two(free_address, tmp_path / "run", "copies", without=lost)
    if step is None:
        assert codes == [1, 1], ends
        assert all("the machines have copies with different steps" in said for _, said in ends)
    else:
        assert codes == [0, 0], ends
        assert all(f"continued {step} " in output for output, _ in ends)
        assert (tmp_path / "machine_0" / "11.corrupt").is_dir()
