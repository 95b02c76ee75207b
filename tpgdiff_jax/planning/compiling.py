"""Compile one program for one topology and read from it what a chip holds, computes and moves."""

import re
import time
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.planning.arithmetic import PRECISIONS
from tpgdiff_jax.planning.chips import Topology
from tpgdiff_jax.planning.collectives import messages
from tpgdiff_jax.planning.gpu import memory_of
from tpgdiff_jax.planning.hlo import Hlo
from tpgdiff_jax.planning.movers import movers, rounded
from tpgdiff_jax.planning.programs import trace

# "... Used 18.20G of 15.75G hbm. ...", of the compiler that gives up.
_TOO_LARGE = re.compile(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def compile_program(
    what: str, config: ConfigDict, mesh: Mesh, topology: Topology
) -> dict[str, Any]:
    """Compile what a configuration would run and measure the result.

    Args:
      what: one of `programs.WHATS`.
      config: a whole configuration.
      mesh: of the topology's devices.
      topology: what is compiled for.

    Returns:
      plain values, as `--mode=plan` writes them; bytes and FLOP are of one chip.  A program that
      the compiler cannot fit into the chip's memory has `fits` False, `needs` bytes, and no
      figures of what it does.

    Raises:
      UserError: the configuration does not suit the mesh.
    """
    started = time.monotonic()
    program = trace(what, config, mesh)
    traced = time.monotonic()
    record = {
        "topology": topology.name,
        "slice": topology.slice_name,
        "chips": topology.count,
        "what": what,
        "mesh": dict(mesh.shape),
        "images": program.images,
        "parameters": program.parameters,
        "parameter_bytes": program.parameter_bytes,
        "optimizer_bytes": program.optimizer_bytes,
        "average_bytes": program.average_bytes,
        "memory": memory_of(topology),
        "trace_seconds": traced - started,
    }
    try:
        compiled = program.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needs = _needed(str(error))
        if needs is None:
            raise
        seconds = time.monotonic() - traced
        return record | {"fits": False, "peak_bytes": needs, "compile_seconds": seconds}
    record["compile_seconds"] = time.monotonic() - traced
    return record | measure(compiled, list(mesh.shape.items()), topology)


def _needed(text: str) -> float | None:
    found = _TOO_LARGE.search(text)
    return float(found[1]) * _UNITS[found[2]] if found else None


def measure(compiled: Any, mesh_shape: list[tuple[str, int]], topology: Topology) -> dict[str, Any]:
    """Return what a compiled program needs of a chip, see `compile_program`."""
    sizes = compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}  # XLA tells none of a GPU that is not there
    peak = (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        - sizes.alias_size_in_bytes
        + sizes.temp_size_in_bytes
        + sizes.generated_code_size_in_bytes
    )
    program = Hlo(compiled.as_text())
    found = list(program.costs())
    return {
        "argument_bytes": sizes.argument_size_in_bytes,
        "temporary_bytes": sizes.temp_size_in_bytes,
        "peak_bytes": peak,
        "fits": peak <= memory_of(topology),
        "flops": sum(cost.flops * cost.times for cost in found),
        "flops_by_precision": {
            precision: sum(cost.products.get(precision, 0.0) * cost.times for cost in found)
            for precision in PRECISIONS
        },
        "bytes": sum(cost.bytes * cost.times for cost in found),
        "operations": sum(cost.times for cost in found),
        # As XLA counts: every operation, and the body of a loop once.
        "xla_flops": costs.get("flops"),
        "xla_bytes": costs.get("bytes accessed"),
        "messages": [vars(message) for message in messages(program, mesh_shape, topology.node)],
        "movers": [vars(mover) for mover in movers(found)],
        "rounded": rounded(program),
    }
