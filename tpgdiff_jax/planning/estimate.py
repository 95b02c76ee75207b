"""GPUs without their compiler: a closed form with its assumptions named.

It takes a compiled program of the same batch a chip, of one TPU chip, and assumes:

* a GPU computes the same matrix products, at its sheet's peak in bfloat16;
* it moves the same bytes, at its sheet's bandwidth: its own compiler may fuse more, or less;
* it holds the same arguments and temporaries;
* gradients are summed over all GPUs in one ring, of which the slowest link counts, and nothing else
  is sent: so the mesh is `data` alone.
"""

from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.planning.chips import Topology
from tpgdiff_jax.planning.gpu import memory_of


def estimated(record: Mapping[str, Any], topology: Topology) -> dict[str, Any]:
    """Return the record of a program on GPUs.

    Args:
      record: of the same program, compiled for one TPU chip with a GPU's share of the batch.
      topology: the GPUs.
    """
    count = topology.count
    gradient = record["parameters"] * 4  # float32
    kept = ("what", "parameters", "parameter_bytes", "optimizer_bytes", "average_bytes")
    kept += ("argument_bytes", "temporary_bytes", "peak_bytes")
    kept += ("flops", "flops_by_precision", "bytes")
    is_trained = record["what"] == "train" and count > 1
    message = {
        "kind": "all-reduce",
        "axis": "data",
        "count": 1,
        "bytes": gradient,
        "sent": 2 * (count - 1) / count * gradient,
        "largest": gradient,
        "together": topology.node if count > topology.node else 0,
        "sources": ["the gradient"],
    }
    return {name: record[name] for name in kept} | {
        "topology": topology.name,
        "slice": topology.slice_name,
        "chips": count,
        "mesh": {"data": count, "fsdp": 1, "tensor": 1, "spatial": 1},
        "images": record["images"] * count,
        "memory": memory_of(topology),
        "fits": record["peak_bytes"] <= memory_of(topology),
        "messages": [message] if is_trained else [],
        "movers": record["movers"],
        "is_estimated": True,
    }
