"""The TPU compiler without a TPU: devices that exist for compiling only."""

import importlib.util
import os
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from tpgdiff_jax.planning import gpu
from tpgdiff_jax.planning.chips import Topology
from tpgdiff_jax.reporting.errors import UserError


def check_libtpu(*, for_gpus: bool) -> None:
    """Raise UserError where the TPU compiler is not installed; `for_gpus`: it estimates GPUs."""
    if importlib.util.find_spec("libtpu") is not None:
        return
    install = "pip install 'tpgdiff_jax[plan]' (Linux, x86-64; no TPU is needed)"
    if for_gpus:
        raise UserError(
            f"--mode=plan has no compiler for GPUs here: {gpu.INSTALL}. To estimate them instead, "
            f"the package libtpu is enough: {install}."
        )
    raise UserError(
        f"--mode=plan compiles for TPUs with the package libtpu, which is not installed here: "
        f"{install}."
    )


def compile_only_devices(topology: Topology) -> Sequence[jax.Device]:
    """Return a topology's devices.

    libtpu reads which slice it is to stand for from the environment when it is loaded, so a process
    can have the devices of one topology only, and must not want a real TPU: see `worker`.
    """
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": topology.slice_name,
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }
    return topologies.get_topology_desc(topology.name, "tpu").devices
