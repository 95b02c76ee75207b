"""The GPU compiler without a GPU: devices that exist for compiling only."""

import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from tpgdiff_jax.planning.chips import Topology
from tpgdiff_jax.reporting.errors import UserError

INSTALL = "install JAX with CUDA (pip install 'jax[cuda13]'; no GPU is needed)"
_PLUGINS = {"jax_cuda13_plugin": 13, "jax_cuda12_plugin": 12}

# What a process needs before it imports JAX.  The plugin would look for a driver; and how fast a
# kernel of Triton's is can only be tried on a GPU, so products go to the library.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
XLA_FLAGS = "--xla_gpu_enable_triton_gemm=false"

# As XLA asks a driver for it (`stream_executor.GpuTargetConfigProto`).  What all GPUs of
# compute capability 8.0 to 9.0 have in common stands here: CUDA C++ Programming Guide, "Compute
# Capabilities".
_TARGET = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: {threads}
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {optin}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  core_count: {cores}
  fpus_per_core: {units}
  clock_rate_ghz: {clock}
  l2_cache_size: {cache}
  memory_bandwidth: {bandwidth:.0f}
  device_memory_size: {memory:.0f}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: {cuda} }}
device_description_str: "{name}"
"""
# Compute capability -> bytes of shared memory and threads of a multiprocessor.
_SHARED = {8.0: (167_936, 2048), 8.9: (102_400, 1536), 9.0: (233_472, 2048)}

# Of a GPU's memory, what JAX takes for its arrays unless it is told otherwise.
_USUAL_SHARE = 0.75
_LARGE_SHARE = 0.92  # as in launch/env/gpu.sh
_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def memory_of(topology: Topology) -> float:
    """Return the bytes that programs may have on a chip: of a GPU, what JAX takes of it here.

    Raises:
      UserError: the environment says how much in a form that is no number.
    """
    if topology.chip.is_tpu:
        return topology.chip.memory
    return topology.chip.memory * _share()


def _share() -> float:
    """Return what part of a GPU's memory JAX takes in this environment."""
    name = _share_variable()
    given = os.environ.get(name) or _USUAL_SHARE
    try:
        share = float(given)
    except ValueError:
        share = 0.0
    if not 0 < share < math.inf:  # above 1, the host's memory serves as well
        raise UserError(
            f"{name}={given}: expected the part of a GPU's memory that JAX takes, such as 0.9."
        )
    return share


def _share_variable() -> str:
    """Return which of its two names says so; JAX wants one of them only."""
    return next(filter(os.environ.get, _SHARES), _SHARES[-1])


def with_more_memory(record: Mapping[str, Any], topology: Topology) -> dict[str, Any] | None:
    """Return the record of a program that fits if JAX takes more of its GPU, else None."""
    if topology.chip.is_tpu or record["peak_bytes"] > (most := _LARGE_SHARE * topology.chip.memory):
        return None
    change = f"{_share_variable()}={_LARGE_SHARE}"
    return dict(record) | {"memory": most, "fits": True, "change": change}


def has_gpu_compiler() -> bool:
    """Tell whether JAX's CUDA plugin is installed, which compiles for GPUs; none is needed."""
    return _cuda() is not None


def _cuda() -> int | None:
    """Return the version of CUDA that the installed plugin is for."""
    return next((v for name, v in _PLUGINS.items() if importlib.util.find_spec(name)), None)


def target(topology: Topology) -> str:
    """Return what XLA must know of the GPUs of a topology, as the text of its message."""
    chip = topology.chip
    gpu = chip.gpu
    major, minor = str(gpu.capability).split(".")
    shared, threads = _SHARED[gpu.capability]
    return _TARGET.format(
        threads=threads,
        shared=shared,
        optin=shared - 1024,  # each block takes 1 KiB for itself
        cores=gpu.cores,
        units=gpu.units,
        clock=gpu.clock,
        cache=gpu.cache,
        bandwidth=chip.bandwidth,
        memory=chip.memory,
        major=major,
        minor=minor,
        cuda=_cuda(),
        name=f"NVIDIA {chip.kind.upper()}",
    )


def compile_only_devices(topology: Topology) -> Sequence[jax.Device]:
    """Return a topology's devices: nodes of `chip.node` GPUs each.

    Raises:
      UserError: the plugin is installed, but JAX could not load it.
    """
    node = min(topology.count, topology.chip.node)
    shape = f"1x{topology.count // node}x{node}"
    try:
        described = topologies.get_topology_desc(
            platform="cuda", target_config=target(topology), topology=shape
        )
    except NotImplementedError as error:  # JAX logs why, and goes on without the plugin
        raise UserError(
            "JAX's CUDA plugin is installed but was not loaded. Its version must be that of jax: "
            "pip install -U 'jax[cuda13]'; what JAX says of it: "
            "JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 python -c 'import jax; jax.devices()'."
        ) from error
    return described.devices
