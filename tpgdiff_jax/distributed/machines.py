"""Which processes of a job see the same files."""

import pathlib
import secrets

import jax
import numpy as np
from jax.experimental import multihost_utils


def sharing(folder: pathlib.Path) -> list[int]:
    """Find which processes see the same folder; all of them must call.

    Each process puts a hidden file there for a moment, and looks for those of the others: paths and
    names of machines tell nothing of mounts and containers.

    Args:
      folder: of this process; is made where it is missing.

    Returns:
      for each process the lowest index among those that see its folder: all 0 where they share one.
    """
    if jax.process_count() == 1:
        return [0]
    own = np.array(secrets.randbits(31), np.int32)
    path = _sign(folder, jax.process_index(), own)
    folder.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        signs = multihost_utils.process_allgather(own)  # comes back once all files are there
        seen = [index for index, sign in enumerate(signs) if _sign(folder, index, sign).exists()]
        firsts = multihost_utils.process_allgather(np.array(min(seen), np.int32))
    finally:
        path.unlink()
    return firsts.tolist()


def _sign(folder: pathlib.Path, index: int, sign: np.ndarray) -> pathlib.Path:
    return folder / f".process_{index}_{int(sign)}"
