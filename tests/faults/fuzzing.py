"""Fuzzing: files with anything done to their bytes, and bounds on what each case may cost.

Everything follows from the number of a case, so that one that falls can be made again alone.
"""

import contextlib
import dataclasses
import logging
import pathlib
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
_MOST_MUTATIONS = 4
_STATUS = pathlib.Path("/proc/self/status")
_RESET_PEAK = pathlib.Path("/proc/self/clear_refs")


def cases(short: int, long: int) -> pytest.MarkDecorator:
    """Give a test its number of `cases`: the short one by default, the long one with --faults."""
    return pytest.mark.parametrize("cases", [short, pytest.param(long, marks=pytest.mark.faults)])


@dataclasses.dataclass
class Figures:
    """What a run over many cases has shown.

    Attributes:
      cases: how many there were.
      accepted: of these, how many were taken.
      seconds: that they took together.
      slowest: seconds of the slowest case.
      mebibytes: by which the process's memory grew at its peak.
    """

    cases: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    mebibytes: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.cases:,} cases, {self.accepted:,} taken, the others refused by name; "
            f"{self.seconds:.1f} s of CPU, the slowest case {self.slowest:.2f} s; "
            f"memory +{self.mebibytes:.0f} MiB"
        )


def endure(
    numbers: range,
    attack: Callable[[random.Random], Any],
    refusals: type[Exception] | tuple[type[Exception], ...],
    *,
    seconds: float = 5.0,
    mebibytes: float = 256.0,
) -> Figures:
    """Run an attack under many numbers; whatever is no refusal falls through.

    Args:
      numbers: of the cases; each seeds the generator that the attack draws from.
      attack: makes a case and feeds it.
      refusals: errors that are an answer.
      seconds: of this process's CPU that a case may take.
      mebibytes: by which memory may grow.

    Raises:
      AssertionError: any other error, its case and its cause named; or a bound is broken.
    """
    figures, start = Figures(), time.process_time()
    with measured_memory() as growth, _silence():
        for number in numbers:
            before = time.process_time()
            try:
                attack(random.Random(number))
                figures.accepted += 1
            except refusals:
                pass
            except Exception as error:
                raise AssertionError(f"case {number}: {type(error).__name__}: {error}") from error
            took = time.process_time() - before
            assert took < seconds, f"case {number} took {took:.1f} s"
            figures.slowest = max(figures.slowest, took)
            figures.cases += 1
    figures.seconds, figures.mebibytes = time.process_time() - start, growth()
    assert figures.mebibytes < mebibytes, f"memory grew by {figures.mebibytes:.0f} MiB"
    return figures


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep decoders from saying of every case what they think of it."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def measured_memory() -> Iterator[Callable[[], float]]:
    """Yield a function that says by how many MiB this process's memory grew at its peak."""
    with contextlib.suppress(OSError):
        _RESET_PEAK.write_text("5")
    start = _kibibytes("VmRSS")
    yield lambda: max(0, _kibibytes("VmHWM") - start) / 1024


def _kibibytes(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", _STATUS.read_text())
    return int(found[1])


def mutated(rng: random.Random, files: Sequence[bytes]) -> bytes:
    """Return one of some files with up to four things done to it.

    Bytes change, fields become extreme, parts are lost, doubled, made up or come from another file.
    """
    data = bytearray(rng.choice(files))
    for _ in range(rng.randint(1, _MOST_MUTATIONS)):
        rng.choice(_MUTATIONS)(rng, data, files)
    return bytes(data)


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    for _ in range(rng.randint(1, 8)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        at, length = _part(rng, data)
        data[at : at + length] = rng.randbytes(length)


def _extreme(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    """Put a number that is often too much where a header is likely to have one."""
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice(_EDGES) & ((1 << 8 * width) - 1)
    field = value.to_bytes(width, rng.choice(("little", "big")))
    at = rng.randrange(min(len(data), rng.choice((64, 512, 2**31))) + 1)
    data[at : at + width] = field


def _cut(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _lose(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at, length = _part(rng, data)
    del data[at : at + length]


def _double(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at, length = _part(rng, data)
    data[at:at] = data[at : at + length]


def _insert(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, 16))


def _splice(rng: random.Random, data: bytearray, files: Sequence[bytes]) -> None:
    other = rng.choice(files)
    at, length = _part(rng, other)
    here = rng.randrange(len(data) + 1)
    data[here : here + rng.choice((0, length))] = other[at : at + length]


def _part(rng: random.Random, data: bytes | bytearray) -> tuple[int, int]:
    return rng.randrange(len(data) + 1), rng.randint(1, 64)


_MUTATIONS = (_flip, _flip, _replace, _extreme, _extreme, _cut, _lose, _double, _insert, _splice)
