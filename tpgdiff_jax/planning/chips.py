"""Chips and the pods made of them: one table of peaks, memories and links, with its sources."""

import dataclasses
import math
import re

from tpgdiff_jax.reporting.errors import UserError

MIB, GIB, TERA, GIGA = 2**20, 2**30, 1e12, 1e9


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What XLA must know of a GPU to compile for it.

    Attributes:
      capability: compute capability.
      cores, units: multiprocessors, and float32 units of each.
      clock: GHz.
      cache: bytes of the second level.
    """

    capability: float
    cores: int
    units: int
    clock: float
    cache: int


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one accelerator can do, by its maker's sheet.

    Attributes:
      kind: beginning of a topology's name, e.g. "v5e" in "v5e:4x4".
      flops: dense bfloat16 products, FLOP/s.
      memory: bytes of main memory; of a GPU, as its driver tells it.
      bandwidth: of that memory, bytes/s.
      link: to all neighbours together, one direction, bytes/s.
      network: to chips of other nodes, one direction, bytes/s; None where `link` reaches all.
      node: chips that `link` joins where `network` joins the rest.
      gpu: of a GPU, what XLA must know of it.
      accelerator: name of a slice, a format of its number.
      cores: what that number counts of each chip.
      topologies: shapes that can be asked for; () for any number of whole nodes, or part of one.
      source: where the figures stand.
    """

    kind: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    source: str
    topologies: tuple[str, ...] = ()
    accelerator: str = ""
    cores: int = 1
    network: float | None = None
    node: int = 1
    gpu: Gpu | None = None

    @property
    def is_tpu(self) -> bool:
        """Tell whether libtpu compiles for it."""
        return bool(self.accelerator)

    def peak(self, precision: str) -> float:
        """Return the FLOP/s of products of a precision, one of `arithmetic.PRECISIONS`.

        GPUs multiply float32 as TensorFloat-32 at half the rate of bfloat16, or exactly by their
        float32 units.  For TPUs, which take several bfloat16 products for an exact one, all count
        alike.
        """
        if self.gpu is None or precision == "bfloat16":
            return self.flops
        units = 2 * self.gpu.cores * self.gpu.units * self.gpu.clock * GIGA
        return self.flops / 2 if precision == "float32" else min(units, self.flops / 2)


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    *("8x8x16", "8x16x16"),
)
_ONE_MACHINE = ("1", "2", "4", "8")

# Links: the sheets give both directions together (v4: 2400 Gbit/s of one); one is the half.
CHIPS = (
    Chip(
        *("v5e", 197 * TERA, 16 * GIB, 819 * GIGA, 200 * GIGA),
        source="cloud.google.com/tpu/docs/v5e",
        topologies=_FLAT,
        accelerator="v5litepod-{}",
    ),
    Chip(
        *("v6e", 918 * TERA, 32 * GIB, 1638 * GIGA, 400 * GIGA),
        source="cloud.google.com/tpu/docs/v6e",
        topologies=_FLAT,
        accelerator="v6e-{}",
    ),
    Chip(
        *("v4", 275 * TERA, 32 * GIB, 1200 * GIGA, 300 * GIGA),
        source="cloud.google.com/tpu/docs/v4",
        topologies=_CUBES,
        accelerator="v4-{}",
        cores=2,
    ),
    Chip(
        *("v5p", 459 * TERA, 95 * GIB, 2765 * GIGA, 600 * GIGA),
        source="cloud.google.com/tpu/docs/v5p",
        topologies=_CUBES,
        accelerator="v5p-{}",
        cores=2,
    ),
    Chip(
        *("h100", 989 * TERA, 81_559 * MIB, 3350 * GIGA, 450 * GIGA),
        source="data sheet of the H100 SXM; 400 Gbit/s of network a GPU, as in a DGX H100",
        network=50 * GIGA,
        node=8,
        gpu=Gpu(9.0, cores=132, units=128, clock=1.98, cache=50 * MIB),
    ),
    Chip(
        *("h200", 989 * TERA, 143_771 * MIB, 4800 * GIGA, 450 * GIGA),
        source="data sheet of the H200 SXM; 400 Gbit/s of network a GPU, as in a DGX H200",
        network=50 * GIGA,
        node=8,
        gpu=Gpu(9.0, cores=132, units=128, clock=1.98, cache=50 * MIB),
    ),
    Chip(
        *("a100", 312 * TERA, 81_920 * MIB, 2039 * GIGA, 300 * GIGA),
        source="data sheet of the A100 80 GB SXM; 200 Gbit/s of network a GPU, as in a DGX A100",
        network=25 * GIGA,
        node=8,
        gpu=Gpu(8.0, cores=108, units=64, clock=1.41, cache=40 * MIB),
    ),
    Chip(
        *("l40s", 362 * TERA, 46_068 * MIB, 864 * GIGA, 32 * GIGA),
        source="data sheet of the L40S; links are PCIe 4.0 x16",
        topologies=_ONE_MACHINE,
        node=8,
        gpu=Gpu(8.9, cores=142, units=128, clock=2.52, cache=96 * MIB),
    ),
    Chip(
        *("rtx4090", 165 * TERA, 24_564 * MIB, 1008 * GIGA, 32 * GIGA),
        source="Ada GPU architecture paper: sums in float32; links are PCIe 4.0 x16",
        topologies=_ONE_MACHINE,
        node=8,
        gpu=Gpu(8.9, cores=128, units=128, clock=2.52, cache=72 * MIB),
    ),
)


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that a program runs on.

    Attributes:
      name: as typed, e.g. "v5e:4x4" or "h100:64".
      chip: of which kind they are.
      count: how many.
    """

    name: str
    chip: Chip
    count: int

    @property
    def node(self) -> int:
        """Devices that fast links join, of which there may be several such nodes."""
        return self.count * self.chip.cores if self.chip.network is None else self.chip.node

    @property
    def slice_name(self) -> str:
        """What one asks a cloud for, e.g. "v5litepod-16" or "v4-128"."""
        if not self.chip.is_tpu:
            return f"{self.count}x{self.chip.kind.upper()}"
        return self.chip.accelerator.format(self.count * self.chip.cores)


def find_topology(name: str) -> Topology:
    """Return the topology of a name such as "v5e:4x4" (TPU) or "h100:8" (GPUs).

    Raises:
      UserError: it is unknown; lists the known ones.
    """
    kind, _, shape = name.partition(":")
    for chip in CHIPS:
        if chip.kind != kind:
            continue
        if shape in chip.topologies or (not chip.topologies and _is_whole(shape, chip.node)):
            return Topology(name, chip, math.prod(map(int, shape.split("x"))))
    raise UserError(f"--topology={name} is unknown; known are {known_topologies()}.")


def _is_whole(number: str, node: int) -> bool:
    """Tell whether this is a number of chips in one node, or of whole nodes."""
    return bool(re.fullmatch(r"[1-9]\d*", number)) and (
        int(number) <= node or int(number) % node == 0
    )


def known_topologies() -> str:
    """Return every topology that can be asked for, as words."""
    named = [
        f"{chip.kind}:{{{', '.join(chip.topologies)}}}"
        if chip.topologies
        else f"{chip.kind}:NUMBER (up to {chip.node}, or a multiple of it)"
        for chip in CHIPS
    ]
    return "; ".join(named)
