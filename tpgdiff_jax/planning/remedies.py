"""What might make a program fit into a chip's memory, the cheapest first."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from tpgdiff_jax.config import get
from tpgdiff_jax.models.unet import REMAT
from tpgdiff_jax.planning.record import state_bytes

# Share of a chip's memory that is worth compiling again for.
_WORTH = 1 / 20

Remedy = tuple[str, ConfigDict, dict[str, int]]


def batch_key(config: ConfigDict, what: str) -> str:
    """Return the key of how many images a run of a program handles."""
    if what != "train":
        return "eval.batch_size"
    return f"{_own(config)}data.batch_size"


def _own(config: ConfigDict) -> str:
    return "stage_one." if config.stage == "priors" else ""


def remedies(config: ConfigDict, record: Mapping[str, Any]) -> Iterator[Remedy]:
    """Yield changes of a configuration that need less memory.

    Args:
      config: that does not fit.
      record: of it, see `compiling.compile_program`.

    Yields:
      (the change as typed, the changed configuration, the mesh).
    """
    mesh, training = dict(record["mesh"]), record["what"] == "train"
    changes: dict[str, Any] = {}
    accumulate = 1
    if training:
        accumulate = get(config, f"{_own(config)}optim.accumulate")
        if config.stage != "priors":
            for remat in REMAT[REMAT.index(config.model.remat) + 1 :]:
                changes = {"model.remat": remat}
                yield _changed(config, changes, mesh)
        # Parameters, moments and averages split over all devices that hold them whole.
        saved = state_bytes(record) * (1 - 1 / mesh["data"])
        if mesh["fsdp"] == 1 and saved >= _WORTH * record["memory"]:
            mesh = mesh | {"data": 1, "fsdp": mesh["data"]}
            yield _changed(config, changes, mesh, f" --config.mesh.fsdp={mesh['fsdp']}")
    key = batch_key(config, record["what"])
    parts = mesh["data"] * mesh["fsdp"] * accumulate
    fsdp = f" --config.mesh.fsdp={mesh['fsdp']}" if mesh != record["mesh"] else ""
    batch = record["images"]
    while batch := batch // 2 // parts * parts:
        yield _changed(config, changes | {key: batch}, mesh, fsdp)


def _changed(
    config: ConfigDict, changes: Mapping[str, Any], mesh: dict[str, int], more: str = ""
) -> Remedy:
    changed = copy.deepcopy(config)
    with changed.unlocked():
        changed.update_from_flattened_dict(dict(changes))
    typed = " ".join(f"--config.{key}={value}" for key, value in changes.items())
    return (typed + more).strip(), changed.lock(), mesh
