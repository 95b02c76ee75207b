"""Scaling on paper: what a step sends between chips, and from which batch on computing hides it.

python launch/scale.py                      the table of docs/launching.md
python launch/scale.py --parameters=49.74e6 --samples_per_second=282 --measured_on=H200

Data parallel: every chip holds the model, and gradients are summed (all-reduce).  FSDP: parameters
are gathered before the forward and the backward pass, gradients are summed and scattered.  In a
ring of n chips each sends (n - 1) / n of the bytes once for a gather or a scatter, and twice for an
all-reduce, which is both (Patarasuk and Yuan 2009).
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence

import tabulate


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      tflops: peak in bfloat16, dense, TFLOP/s.
      link: bytes/s a chip can send to its neighbours in its slice or host.
      source: where the figures stand.
    """

    tflops: float
    link: float
    source: str


# A chip's links count in one direction; a ring over several of a torus's dimensions uses them all.
CHIPS = {
    "v5e": Chip(197, 200e9, "Google Cloud TPU docs: 1600 Gbit/s of interconnect a chip"),
    "v5p": Chip(459, 600e9, "Google Cloud TPU docs: 4800 Gbit/s of interconnect a chip"),
    "H100": Chip(989, 450e9, "NVIDIA H100 SXM data sheet: NVLink 900 GB/s, both directions"),
    "H200": Chip(989, 450e9, "NVIDIA H200 SXM data sheet: NVLink 900 GB/s, both directions"),
}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Chips that train together.

    Attributes:
      chip: a key of `CHIPS`.
      count: of the chips.
      group: chips that `Chip.link` joins; between groups messages take `between`.
      between: bytes/s that a chip can send to other groups.
    """

    chip: str
    count: int
    group: int
    between: float = math.inf


CLUSTERS = {
    "v5e-16": Cluster("v5e", 16, 16),
    "v5p-128": Cluster("v5p", 64, 64),  # Google counts cores of v5p: 128 are 64 chips
    "8xH100": Cluster("H100", 8, 8),
    "64xH100": Cluster("H100", 64, 8, between=50e9),  # one 400 Gbit/s adapter a GPU
}


def gather_seconds(size: float, cluster: Cluster) -> float:
    """Return how long it takes until every chip holds `size` bytes, of which each has a part.

    A scatter of sums takes as long.  With several groups: between the groups first, each chip
    with its own part of a group's share, then within them.
    """
    within, groups = min(cluster.group, cluster.count), cluster.count // cluster.group
    seconds = size * (within - 1) / within / CHIPS[cluster.chip].link
    if groups > 1:
        seconds += size / within * (groups - 1) / groups / cluster.between
    return seconds


def data_parallel_seconds(parameters: float, width: int, cluster: Cluster) -> float:
    """Return the seconds of a step's messages: one all-reduce of the gradients.

    Args:
      parameters: that are trained.
      width: bytes of a gradient's number.
      cluster: the chips.
    """
    return 2 * gather_seconds(parameters * width, cluster)


def fsdp_seconds(parameters: float, width: int, gradient_width: int, cluster: Cluster) -> float:
    """Return the seconds of a step's messages: two gathers of parameters, a scatter of gradients.

    Args:
      parameters: that are trained.
      width: bytes of a parameter's number as it is sent.
      gradient_width: bytes of a gradient's number.
      cluster: the chips.
    """
    return gather_seconds(parameters * (2 * width + gradient_width), cluster)


def sent_bytes(size: float, count: int, passes: int) -> float:
    """Return the bytes that each of `count` chips in a ring sends in so many passes over `size`."""
    return passes * size * (count - 1) / count


def step_seconds(batch: int, samples_per_second: float, measured: Chip, chip: Chip) -> float:
    """Return the seconds in which a chip computes its batch, scaled from another by peak FLOP/s."""
    return batch / samples_per_second * measured.tflops / chip.tflops


def hiding_batch(seconds: float, samples_per_second: float, measured: Chip, chip: Chip) -> int:
    """Return the smallest batch a chip whose backward pass lasts as long as the messages.

    Gradients can be sent while the backward pass goes on, which is two thirds of a step.

    Args:
      seconds: of the messages.
      samples_per_second: of one `measured` chip.
      measured: the chip that was measured.
      chip: the chip of the cluster.
    """
    backward = 2 / 3 * step_seconds(1, samples_per_second, measured, chip)
    return max(1, math.ceil(seconds / backward))


def rows(parameters: float, samples_per_second: float, measured: str, batch: int) -> list[list]:
    """Return the table's rows, one for each cluster."""
    found = []
    for name, cluster in CLUSTERS.items():
        chip = CHIPS[cluster.chip]
        speed = (samples_per_second, CHIPS[measured], chip)
        reduce = data_parallel_seconds(parameters, 4, cluster)
        gather = fsdp_seconds(parameters, 4, 4, cluster)
        found.append(
            [
                name,
                f"{sent_bytes(parameters * 4, cluster.count, 2) / 1e6:.0f} MB",
                f"{1e3 * reduce:.2f} ms",
                f"{sent_bytes(parameters * 4, cluster.count, 3) / 1e6:.0f} MB",
                f"{1e3 * gather:.2f} ms",
                f"{1e3 * step_seconds(batch, *speed):.1f} ms",
                hiding_batch(reduce, *speed),
                hiding_batch(gather, *speed),
            ]
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parameters", type=float, default=49.74e6, help="that are trained")
    parser.add_argument(
        "--samples_per_second", type=float, default=282.0, help="of a train step on one chip"
    )
    parser.add_argument("--measured_on", choices=CHIPS, default="H200", help="the chip of that")
    parser.add_argument("--batch", type=int, default=16, help="samples a chip, for the step's time")
    given = parser.parse_args(arguments)
    table = rows(given.parameters, given.samples_per_second, given.measured_on, given.batch)
    headers = (
        *("cluster", "all-reduce", "takes", "FSDP", "takes", f"step of {given.batch}"),
        *("hidden from batch", "FSDP from batch"),
    )
    print(tabulate.tabulate(table, headers, tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
