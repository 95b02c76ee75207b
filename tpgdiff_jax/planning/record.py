"""What is planned, and what is found out about it: plain records that become JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def state_bytes(record: Mapping[str, Any]) -> int:
    """Return what a chip holds of parameters, optimiser and averages, of a program's record."""
    return sum(record[name] for name in ("parameter_bytes", "optimizer_bytes", "average_bytes"))


@dataclasses.dataclass(frozen=True)
class Program:
    """A program, traced.

    Attributes:
      lowered: of `jax.jit(...).lower`.
      images: that one run of it handles, on all devices together.
      parameters: how many numbers learn.
      parameter_bytes, optimizer_bytes, average_bytes: of a chip: of the parameters (when restoring,
        of all weights), the optimiser's state and the running averages.
    """

    lowered: Any
    images: int
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int = 0
    average_bytes: int = 0
