"""Plan a configuration on pods: compile each program for each topology and mesh, and compare."""

import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from tpgdiff_jax.config import get, stage_config
from tpgdiff_jax.distributed.sharding import AXES
from tpgdiff_jax.planning import gpu
from tpgdiff_jax.planning.chips import Topology, find_topology
from tpgdiff_jax.planning.estimate import estimated
from tpgdiff_jax.planning.remedies import batch_key, remedies
from tpgdiff_jax.planning.roofline import roofline, use
from tpgdiff_jax.planning.tpu import check_libtpu
from tpgdiff_jax.reporting.errors import UserError

Record = dict[str, Any]

# What a GPU's share of a program is compiled for: the chip with the most memory, alone.
_MODEL_OF_GPUS = "v5p:2x2x1"
_ALONE = {"data": 1, "fsdp": 1, "tensor": 1, "spatial": 1}


def plan(
    config: ConfigDict,
    names: Sequence[str],
    whats: Sequence[str],
    meshes: Sequence[str],
    *,
    remedy: bool = True,
) -> Iterator[Record]:
    """Compile what a configuration would run on several topologies and meshes.

    Args:
      config: a checked configuration.
      names: topologies, e.g. "v5e:4x4".
      whats: of `programs.WHATS`.
      meshes: "DATAxFSDPxTENSORxSPATIAL", with -1 for the rest; empty: `config.mesh`.
      remedy: where a program does not fit, compile what might make it fit until it does.

    Yields:
      one record for each, as soon as it is known: that of `compiling.compile_program` with the
      roofline's figures; with `remedy`, the changes that make it fit follow as further records.

    Raises:
      UserError: an unknown topology or mesh, one that the configuration does not suit, or the
        compiler is missing.
    """
    topologies = [find_topology(name) for name in names]
    for topology in topologies:
        gpu.memory_of(topology)  # JAX would not load its plugin, and not say why
    sizes = [read_mesh(text) for text in meshes] or [dict(config.mesh)]
    others = [each for each in topologies if each.chip.is_tpu or not _is_compiled(each)]
    if others:
        check_libtpu(for_gpus=not any(each.chip.is_tpu for each in others))
    for topology in topologies:
        if not _is_compiled(topology):
            logging.warning(
                "%s is estimated, for a mesh of data alone: to compile for it, %s.",
                topology.name,
                gpu.INSTALL,
            )
        for mesh in sizes if _is_compiled(topology) else sizes[:1]:
            for what in whats:
                record = _measured(config, topology, mesh, what)
                yield record
                if not record["fits"] and remedy:
                    yield from _remedied(config, topology, record)


def _is_compiled(topology: Topology) -> bool:
    """Tell whether programs are compiled for a topology; else what they need is estimated."""
    return topology.chip.is_tpu or gpu.has_gpu_compiler()


def read_mesh(text: str) -> dict[str, int]:
    """Read "DATAxFSDPxTENSORxSPATIAL".

    Raises:
      UserError: it is something else.
    """
    parts = text.split("x")
    try:
        sizes = [int(part) for part in parts]
    except ValueError:
        sizes = []
    if len(sizes) != len(AXES):
        raise UserError(
            f"--mesh={text}: expected the devices along {' x '.join(AXES)}, such as 16x1x1x1 (-1 "
            "takes the rest)."
        )
    return dict(zip(AXES, sizes, strict=True))


def _measured(
    config: ConfigDict, topology: Topology, mesh: Mapping[str, int], what: str, change: str = ""
) -> Record:
    logging.info("Compiling %s for %s %s.", what, topology.name, change or dict(mesh))
    if _is_compiled(topology):
        record = compile_apart(config, topology, mesh, what)
    else:
        record = _estimated(config, topology, what)
    record["change"] = change
    if "flops" in record:
        own = stage_config(config, config.stage)
        steps = own.optim.steps if what == "train" else 0
        record |= use(record, roofline(record, topology), steps)
    return record


def _estimated(config: ConfigDict, topology: Topology, what: str) -> Record:
    """Return the closed form of GPUs, from what one TPU chip would do with a GPU's share."""
    key = batch_key(config, what)
    batch = get(config, key)
    share = -(-batch // topology.count)
    if what == "train" and batch % topology.count:
        raise UserError(
            f"config.{key}={batch} is no multiple of the {topology.count} GPUs of "
            f"--topology={topology.name}."
        )
    one = copy.deepcopy(config)
    with one.unlocked():
        one.update_from_flattened_dict({key: share})
    record = compile_apart(one.lock(), find_topology(_MODEL_OF_GPUS), _ALONE, what)
    if "flops" not in record:
        raise UserError(
            f"--topology={topology.name}: estimated from what {_MODEL_OF_GPUS} would do with "
            f"{share} images a chip, which does not fit there; lower config.{key}."
        )
    return estimated(record, topology)


def _remedied(config: ConfigDict, topology: Topology, record: Record) -> Iterator[Record]:
    """Yield records of what might make a program fit, up to the first that does."""
    if (more := gpu.with_more_memory(record, topology)) is not None:
        yield more
        return
    for change, changed, mesh in remedies(config, record):
        found = _measured(changed, topology, mesh, record["what"], change)
        yield found
        if found["fits"]:
            return
    logging.warning(
        "Nothing that was tried makes %s fit into %s. Take chips with more memory, or smaller %s.",
        record["what"],
        topology.name,
        "crops (config.data.crop_size)"
        if record["what"] == "train"
        else "images (config.eval.crop_size)",
    )


def compile_apart(
    config: ConfigDict, topology: Topology, mesh: Mapping[str, int], what: str
) -> Record:
    """Compile one program in a process of its own; see `worker`.

    Raises:
      UserError: the configuration does not suit the mesh.
      RuntimeError: the process failed; the end of what it said.
    """
    values = json.loads(copy.deepcopy(config).to_json())
    job = {"topology": topology.name, "mesh": dict(mesh), "what": what, "config": values}
    # No device of this machine is meant: what the environment says of one must not reach libtpu.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "LIBTPU_"))}
    if topology.chip.is_tpu:
        # No TPU is used, so several such processes do not disturb each other.
        environment |= {"JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    else:
        given = environment.get("XLA_FLAGS", "")
        environment |= gpu.ENVIRONMENT | {"XLA_FLAGS": f"{given} {gpu.XLA_FLAGS}".strip()}
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder, name) for name in ("job.json", "result.json")]
        paths[0].write_text(json.dumps(job))
        command = [sys.executable, "-m", "tpgdiff_jax.planning.worker", *map(str, paths)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
        if not paths[1].is_file():
            end = "\n".join(done.stderr.splitlines()[-40:])
            raise RuntimeError(
                f"compiling {what} for {topology.name} ended with {done.returncode}:\n{end}"
            )
        record = json.loads(paths[1].read_text())
    if "error" in record:
        raise UserError(f"--topology={topology.name}: {record['error']}")
    return record
