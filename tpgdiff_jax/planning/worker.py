"""A process of its own for each program that is compiled.

libtpu reads from the environment which slice it stands for, once; and what fails in a compiler may
end the process.  So the program that plans never loads one: it starts this one, on the CPU.

python -m tpgdiff_jax.planning.worker JOB.json RESULT.json
"""

import json
import math
import pathlib
import sys
from typing import Any

import jax
from ml_collections import ConfigDict

from tpgdiff_jax.backbones import attention
from tpgdiff_jax.distributed.sharding import make_mesh
from tpgdiff_jax.planning import gpu, tpu
from tpgdiff_jax.planning.chips import find_topology
from tpgdiff_jax.planning.compiling import compile_program
from tpgdiff_jax.precision import use_precision
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.reporting.json_text import dumps


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Compile one program.

    Args:
      job: {"topology": its name, "mesh": axis -> size, "what": of `programs.WHATS`, "config": a
        configuration as nested dict}.

    Returns:
      the record of `compile_program`, or {"error": a sentence for the user}.
    """
    jax.config.update("jax_platforms", "cpu")
    config = ConfigDict(job["config"]).lock()
    use_precision(config.model.matmul_precision)
    topology = find_topology(job["topology"])
    try:
        if topology.chip.is_tpu:
            devices = tpu.compile_only_devices(topology)
        else:
            attention.compile_for(topology.chip.gpu.capability)
            devices = gpu.compile_only_devices(topology)
        parts = len(devices) // topology.count
        if -1 not in job["mesh"].values():  # a program may use fewer chips than there are
            devices = devices[: math.prod(job["mesh"].values())]
        mesh = make_mesh(job["mesh"], devices)
        record = compile_program(job["what"], config, mesh, topology)
    except UserError as error:
        return {"error": str(error)}
    return shared_by(parts, record)


def shared_by(parts: int, record: dict[str, Any]) -> dict[str, Any]:
    """Note in a record of one device that several, such as the two cores of a v4, share a chip."""
    memory = record["memory"] / parts
    fits = record["fits"] and record["peak_bytes"] <= memory
    return record | {"devices_per_chip": parts, "memory": memory, "fits": fits}


if __name__ == "__main__":
    job, result = map(pathlib.Path, sys.argv[1:])
    write_text(result, dumps(run(json.loads(job.read_text()))))
