"""The same training on any mesh: five steps of a tiny complete system; two processes."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import mesh_steps
import numpy as np
import pytest

from tpgdiff_jax.distributed import batches
from tpgdiff_jax.models import tpgdiff

HERE = pathlib.Path(__file__).parent
# data x fsdp x tensor x spatial
QUICK = ("2x2x2x1",)
SLOW = ("1x1x1x8", "8x1x1x1", "2x4x1x1", "2x1x1x4")


def mesh_of(sizes):
    return mesh_steps.mesh_of(*map(int, sizes.split("x")))


@pytest.fixture(scope="module")
def alone():
    """Losses, gradient norms, parameters and averages of one device."""
    told, trees, _ = mesh_steps.take_steps(mesh_steps.tiny_system(), mesh_of("1x1x1x1"))
    assert np.ptp(told[:, 0]) > 0.01 * told[:, 0].mean()
    return told, jax.tree.leaves(trees)


def check_same(told, leaves, alone):
    np.testing.assert_allclose(told[:, 0], alone[0][:, 0], rtol=1e-5)
    # Adam's steps would not show gradients that are a multiple of what they should be.
    np.testing.assert_allclose(told[:, 1], alone[0][:, 1], rtol=1e-4)
    # Adam divides by the gradient's own size, so rounding shows where the gradient is faint.
    rate = mesh_steps.tiny_system().optim.learning_rate
    pairs = zip(leaves, alone[1], strict=True)
    apart = np.concatenate([np.ravel(np.abs(a - b)) for a, b in pairs]) / rate
    told_apart = np.abs(told / alone[0] - 1).max(axis=0)
    print(f"apart: losses, norms {told_apart}, weights {apart.max():.1e} learning rates")
    assert apart.max() < 0.5
    assert (apart > 0.01).mean() < 1e-3


@pytest.mark.parametrize(
    "sizes", [*QUICK, *(pytest.param(s, marks=pytest.mark.slow) for s in SLOW)]
)
def test_every_mesh_learns_the_same(alone, sizes):
    config, mesh = mesh_steps.tiny_system(), mesh_of(sizes)
    batches.check_rows(mesh, tpgdiff.row_shrinking(config))
    told, trees, shardings = mesh_steps.take_steps(config, mesh)
    check_same(told, jax.tree.leaves(trees), alone)
    split = {axis for where in jax.tree.leaves(shardings.params) for axis in where.spec if axis}
    assert split == {axis for axis in ("fsdp", "tensor") if mesh.shape[axis] > 1}
    kernels = [
        where
        for path, where in jax.tree_util.tree_leaves_with_path(shardings.params)
        if path[-1].key == "kernel"
    ]
    whole = sum(where.is_fully_replicated for where in kernels)
    assert whole == len(kernels) if not split else whole < 0.05 * len(kernels)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [*QUICK, *SLOW])
def test_two_processes_of_four_devices_learn_the_same(alone, tmp_path, sizes):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"JAX_NUM_CPU_DEVICES": "4", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    program = [sys.executable, HERE / "mesh_steps.py", tmp_path / "result.npz", coordinator]
    processes = [
        subprocess.Popen(
            [*program, str(index), sizes],
            env=os.environ | settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    with np.load(tmp_path / "result.npz") as result:
        check_same(result["told"], [result[str(i)] for i in range(len(alone[1]))], alone)


def test_random_draws_are_the_same_on_every_mesh():
    shape = (8, 16, 3, 3)

    def draw(key):
        return jax.random.normal(key, shape), jax.random.uniform(key, shape[:1])

    expected = jax.device_get(jax.jit(draw)(jax.random.key(5)))
    assert jax.config.jax_threefry_partitionable
    for sizes in (*QUICK, *SLOW):
        mesh = mesh_of(sizes)
        where = tuple(batches.batch_sharding(mesh, ndim) for ndim in (4, 1))
        found = jax.jit(draw, out_shardings=where)(jax.random.key(5))
        assert not found[0].sharding.is_fully_replicated
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), expected)
