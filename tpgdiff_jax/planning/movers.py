"""Which operations of a compiled program move the most bytes: by layer, and by what they do."""

import collections
import dataclasses
import re
from collections.abc import Iterable

from tpgdiff_jax.planning.hlo import Cost, Hlo

_WRAPPED = re.compile(
    r"^(?:jit|jvp|vmap|transpose|checkpoint|rematted_computation|remat\w*)\((.*)\)$"
)
# Parts of a name that say how JAX came there: functions and methods, branches, loops.
_NO_LAYER = re.compile(
    r"|step|main|run_batch|TPGDiff|\w+\.\w+|while|body|cond|branch_\w+|closed_call"
    r"|checkpoint|rematted_computation"
)


@dataclasses.dataclass(frozen=True)
class Mover:
    """What one layer moves in one kind of operation.

    Attributes:
      layer: path of the module, e.g. "unet/down_0_attention/attention"; "(backward)" follows in the
        gradient.
      kind: what runs: "convolution" (with what is fused to it), "elementwise", "copy", ...
      count: how many operations, loops counted.
      bytes, flops: of all of them.
    """

    layer: str
    kind: str
    count: int
    bytes: int
    flops: float


def movers(costs: Iterable[Cost]) -> list[Mover]:
    """Return what moves bytes, the most first."""
    found = collections.defaultdict(list)
    for cost in costs:
        found[layer_of(cost.instruction.op_name), kind_of(cost)].append(cost)
    rows = [
        Mover(
            layer,
            kind,
            sum(cost.times for cost in members),
            sum(cost.bytes * cost.times for cost in members),
            sum(cost.flops * cost.times for cost in members),
        )
        for (layer, kind), members in found.items()
    ]
    return sorted(rows, key=lambda row: -row.bytes)


def rounded(program: Hlo) -> list[str]:
    """Return the layers with float32 products that a chip rounds: a TPU to bfloat16, a GPU to TF32.

    They do so unless a product asks for the highest precision (`precision.EXACT`).
    """
    return sorted(
        {
            layer_of(product.op_name)
            for product, precision in program.products()
            if precision == "float32"
        }
    )


def kind_of(cost: Cost) -> str:
    """Say what an instruction does: products go by that name whatever is fused to them."""
    instruction = cost.instruction
    if cost.flops:
        return "product"
    if instruction.op == "fusion":
        name = re.sub(r"[._]?\d+$", "", instruction.name).replace("_fusion", "")
        plain = name in ("fusion", "", "loop")
        return "elementwise" if plain else name.strip("_.")
    return instruction.op.removesuffix("-start")


def layer_of(op_name: str) -> str:
    """Return the module an operation comes from, by the name that JAX gave it."""
    # Of operations that XLA joined, "jit(step)/(unet/a/add:unet/b/add)", the first stands for all.
    op_name = re.sub(r"/\(([^:]*):.*", r"/\1", op_name)
    is_backward = "transpose(" in op_name
    parts = []
    for part in op_name.split("/")[:-1]:
        while found := _WRAPPED.match(part):
            part = found[1]
        if not _NO_LAYER.fullmatch(part):
            parts.append(part)
    layer = "/".join(dict.fromkeys(parts)) or op_name.rsplit("/", 1)[-1] or "(no name)"
    return f"{layer} (backward)" if is_backward else layer
