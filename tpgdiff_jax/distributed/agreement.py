"""What the processes of one job say of themselves, compared before they work together.

A process that works on something else would mix up results, or wait for ever for the others.
"""

import zlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils


def said_by_all(numbers: Sequence[int]) -> np.ndarray:
    """Return what every process says, uint32 [process, number]; all must call.

    Args:
      numbers: of this process, each below 2**32; of all processes equally many.
    """
    own = np.array(numbers, np.uint32)
    if jax.process_count() == 1:
        return own[None]
    return np.asarray(multihost_utils.process_allgather(own))


def first_other(numbers: np.ndarray) -> int | None:
    """Return the first process that does not say what process 0 says; None where all agree.

    Args:
      numbers: what each process says, [process] or [process, number].
    """
    rows = numbers.reshape(len(numbers), -1)
    others = np.flatnonzero((rows != rows[0]).any(axis=1))
    return int(others[0]) if others.size else None


def differing(parts: Mapping[str, str]) -> tuple[int, list[str]] | None:
    """Find what the processes do not agree on; all must call, and all are told the same.

    Args:
      parts: name -> what this process has, as text.

    Returns:
      (the first process that differs from process 0, the names of what differs between these two);
      None where all agree.  Where they have not the same names, it names all of this process.
    """
    # Arrays of different lengths cannot be gathered.
    other = first_other(said_by_all([len(parts), _digest("\n".join(parts))]))
    if other is not None:
        return other, list(parts)
    said = said_by_all([_digest(text) for text in parts.values()])
    other = first_other(said)
    if other is None:
        return None
    pairs = zip(parts, said[0], said[other], strict=True)
    return other, [name for name, first, second in pairs if first != second]


def _digest(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))
