"""How fast a program can be at best: arithmetic, memory and links, of which the slowest counts.

Williams et al., "Roofline" (CACM 52(4), 2009).  It is a bound from below: nothing overlaps
perfectly, and no kernel reaches its peak.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.planning.chips import Chip, Topology

LIMITS = ("arithmetic", "memory", "links")


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that one run of a program takes at least.

    Attributes:
      arithmetic: at the peak of the chip's matrix units for each product's precision.
      memory: at the full bandwidth of its memory.
      links: at the full bandwidth of its links, in one direction.
    """

    arithmetic: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The bound: each of the three works at the same time as the others."""
        return max(self.arithmetic, self.memory, self.links)

    @property
    def limit(self) -> str:
        """What bounds it, one of `LIMITS`."""
        return max(LIMITS, key=lambda name: getattr(self, name))

    @property
    def share_of_peak(self) -> float:
        """Share of the matrix units' peak that the bound leaves, at most 1."""
        return self.arithmetic / self.seconds


def roofline(record: Mapping[str, Any], topology: Topology) -> Roofline:
    """Return the bound of a compiled program; see `compiling.compile_program`."""
    chip = topology.chip
    links = sum(
        message["sent"] / _link(chip, message["together"]) for message in record["messages"]
    )
    parts = record.get("devices_per_chip", 1)
    arithmetic = sum(
        flops * parts / chip.peak(precision)
        for precision, flops in record["flops_by_precision"].items()
    )
    memory = record["bytes"] * parts / chip.bandwidth
    return Roofline(arithmetic, memory, links)


def _link(chip: Chip, together: int) -> float:
    """Return the bytes/s of a ring: between nodes as many rings run as cards are shared."""
    return min(chip.link, chip.network * together) if together else chip.link


def use(record: Mapping[str, Any], bound: Roofline, steps: int) -> dict[str, float]:
    """Return what a pod would reach at best, and what the configuration's training would cost.

    Args:
      record: of the program.
      bound: its roofline.
      steps: of the training; 0 where nothing is trained.
    """
    values = {
        "seconds": bound.seconds,
        "limit": bound.limit,
        "arithmetic_seconds": bound.arithmetic,
        "memory_seconds": bound.memory,
        "links_seconds": bound.links,
        "share_of_peak": bound.share_of_peak,
        "images_per_second": record["images"] / bound.seconds,
    }
    if steps:
        values["hours"] = steps * bound.seconds / 3600
        values["chip_hours"] = values["hours"] * record["chips"]
    return values
