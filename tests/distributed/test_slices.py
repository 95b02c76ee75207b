"""Meshes over several TPU slices: stand-ins for devices, and libtpu's own description of them."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from tpgdiff_jax.distributed.batches import shares
from tpgdiff_jax.distributed.slices import arranged
from tpgdiff_jax.reporting.errors import UserError


def chips(slices, hosts, per_host=4):
    """Return devices as JAX lists them, hosts in an order that is not the slices'."""
    return [
        SimpleNamespace(slice_index=place, process_index=place * hosts + host, chip=chip)
        for host in range(hosts)
        for place in reversed(range(slices))
        for chip in range(per_host)
    ]


@pytest.mark.parametrize("shape", [(16, 1, 1, 1), (4, 4, 1, 1), (2, 2, 2, 2)])
def test_only_data_crosses_slices(shape):
    mesh = arranged(chips(slices=2, hosts=2), shape)
    for index, part in enumerate(mesh):
        assert {device.slice_index for device in part.flat} == {index * 2 // shape[0]}


def test_each_process_reads_a_block_of_its_own():
    mesh = arranged(chips(slices=2, hosts=2), (16, 1, 1, 1))
    owners = [[device.process_index for device in part.flat] for part in mesh]
    assert shares(owners) == {process: (process, 4) for process in range(4)}


def test_data_must_divide_among_the_slices():
    with pytest.raises(UserError, match=r"config\.mesh\.data=1: .* 2 slices.*a multiple of 2"):
        arranged(chips(slices=2, hosts=1), (1, 8, 1, 1))


def test_slices_must_be_of_one_size():
    with pytest.raises(UserError, match=r"different numbers of devices \(0: 3, 1: 5\)"):
        arranged([SimpleNamespace(slice_index=int(i > 2)) for i in range(8)], (8, 1, 1, 1))


def test_devices_without_slices_keep_their_order():
    assert arranged(jax.devices(), (8, 1, 1, 1)).flatten().tolist() == jax.devices()


DESCRIBED = """
import os
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu", "TPU_WORKER_ID": "0"}
os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-16", "TPU_WORKER_HOSTNAMES": "localhost"}
import libtpu
os.environ["TPU_LIBRARY_PATH"] = libtpu.get_library_path()
from jax.experimental import topologies
from tpgdiff_jax.distributed.sharding import make_mesh
devices = topologies.get_topology_desc("v5e:4x4", "tpu", num_slices=2).devices
mesh = make_mesh({"data": -1, "fsdp": 4, "tensor": 1, "spatial": 1}, devices)
assert mesh.shape["data"] == 8
slices = [{device.slice_index for device in part.flat} for part in mesh.devices]
assert slices == [{0}] * 4 + [{1}] * 4, slices
"""


@pytest.mark.slow
def test_slices_as_libtpu_describes_them():
    pytest.importorskip("libtpu", reason="libtpu is not installed")
    words = [sys.executable, "-c", DESCRIBED]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
