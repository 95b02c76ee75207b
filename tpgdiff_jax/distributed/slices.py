"""Devices of several TPU slices in one mesh: only `data` leads from one slice to another.

Within a slice chips exchange messages over links of their own; between slices over the network of
the data centre, ten times slower and more.  Gradients cross it once a step; what `fsdp`, `tensor`
and `spatial` exchange within a layer must not.
"""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from tpgdiff_jax.reporting.errors import UserError


def arranged(devices: Sequence[Any], shape: Sequence[int]) -> np.ndarray:
    """Return the devices in the shape of a mesh whose first axis is `data`.

    Slices follow each other along `data`.  Within a slice devices keep their order, in which those
    of a process stand together, so that each process reads one block of the batch.

    Args:
      devices: all devices; those of slices have a `slice_index`.
      shape: of the mesh.

    Raises:
      UserError: `data` is no multiple of the slices, or the slices are of several sizes.
    """
    places = [getattr(device, "slice_index", None) or 0 for device in devices]
    sizes = collections.Counter(places)
    if len(sizes) > 1 and shape[0] % len(sizes):
        raise UserError(
            f"config.mesh.data={shape[0]}: the devices lie in {len(sizes)} slices, and only `data` "
            f"may lead from one to another; choose a multiple of {len(sizes)}."
        )
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{place}: {size}" for place, size in sorted(sizes.items()))
        raise UserError(
            f"The slices have different numbers of devices ({listed}); a mesh needs slices of one "
            "size."
        )
    order = sorted(range(len(devices)), key=lambda index: places[index])  # stable
    ordered = np.empty(len(devices), object)
    ordered[:] = [devices[index] for index in order]
    return ordered.reshape(shape)
