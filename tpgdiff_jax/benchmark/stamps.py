"""What tells that a line still speaks of the files that are there: their sizes and their times.

Paths are no part of it: a folder that was moved or copied with its times needs no new scores.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.experimental import multihost_utils

from tpgdiff_jax.benchmark.rows import Stamp
from tpgdiff_jax.benchmark.sets import Item
from tpgdiff_jax.benchmark.work import Predictions, Task
from tpgdiff_jax.stores.copies import stamp_of

_SIDES = ("lq", "gt", "prediction", "noise")
_STREAM = 1  # 0: of older versions, whose threads took each other's noise
_THREADS = 8  # on network drives every look at a file waits


def read_stamps(tasks: Sequence[Task], predictions: Predictions | None) -> list[Stamp]:
    """Look at the files of every task.

    Args:
      tasks: what is scored.
      predictions: somebody's outputs, where these are scored.

    Returns:
      for each task: side -> [bytes, nanoseconds of the last change]; without sides that have no
      file.  Where a set's images share one stream of noise, also noise -> [draws before, 1]: it
      is another when an image before this one comes or goes.
    """
    # All variants of an image share its files.
    items = {task.key[1:]: task.item for task in tasks}
    with ThreadPoolExecutor(_THREADS) as pool:
        stamps = pool.map(lambda item: _stamp(item, predictions), items.values())
        found = dict(zip(items, stamps, strict=True))
    return [found[task.key[1:]] for task in tasks]


def agreed_stamps(stamps: Sequence[Stamp]) -> list[Stamp]:
    """Return the stamps that process 0 has seen; copies on other machines have other times."""
    if jax.process_count() == 1:
        return list(stamps)
    table = np.full((len(stamps), len(_SIDES), 2), -1, np.int64)
    for row, stamp in zip(table, stamps, strict=True):
        for side, numbers in stamp.items():
            row[_SIDES.index(side)] = numbers
    # In halves: JAX would cut 64-bit integers.
    halves = np.asarray(multihost_utils.broadcast_one_to_all(table.view(np.int32)))
    table = np.ascontiguousarray(halves).view(np.int64)
    return [
        {
            side: numbers.tolist()
            for side, numbers in zip(_SIDES, row, strict=True)
            if numbers[0] >= 0
        }
        for row in table
    ]


def _stamp(item: Item, predictions: Predictions | None) -> Stamp:
    paths = {"lq": item.lq, "gt": item.gt}
    if predictions is not None:
        paths["prediction"] = predictions.find(item)
    seen = {side: path and stamp_of(path) for side, path in paths.items()}
    if item.draws_before is not None:
        seen["noise"] = item.draws_before, _STREAM
    return {side: list(numbers) for side, numbers in seen.items() if numbers is not None}
