"""The devices that restore, and how images lie on them."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.distributed.batches import batch_sharding, place
from tpgdiff_jax.distributed.sharding import AXES, replicated
from tpgdiff_jax.inference import host_memory, sizes, tiling
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.models.tpgdiff import TPGDiff, laid_over


class Devices:
    """Devices that share images, their rows, and windows.

    Attributes:
      mesh: their mesh; None for one, the default one.
      sharing: how many share a batch of images.
      spatial: how many share the rows of an image.
    """

    def __init__(self, mesh: Mesh | None, model: ConfigDict):
        """Take devices; `model` is the configuration of the network that runs on them."""
        self.mesh = mesh
        shape = dict.fromkeys(AXES, 1) if mesh is None else mesh.shape
        self.sharing = shape["data"] * shape["fsdp"]
        self.spatial, self._tensor = shape["spatial"], shape["tensor"]
        # The rows of an image must divide by its devices at every level of the network.
        self._rows = self.spatial * 2 ** len(model.multipliers)
        self._bytes_per_seen = model.width * jnp.dtype(model.dtype).itemsize

    def lay_over(self, model: TPGDiff) -> TPGDiff:
        """Return a network that knows how these devices share an image."""
        return laid_over(model, tensor=self._tensor, spatial=self.spatial)

    def padded(self, size: tuple[int, int], exact: bool) -> tuple[int, int]:
        """Return the padded (height, width) of an image, see `sizes.padded_size`."""
        return sizes.padded_size(size, self._rows, exact=exact)

    def tile(self, size: tuple[int, int], sampling: Sampling) -> int:
        """Return the side of the windows for an image of a padded size; 0 for the whole image."""
        return sizes.tile_for(size, sampling.tile, self.spatial)

    def window_count(self, size: tuple[int, int], sampling: Sampling) -> int:
        """Return how many windows an image of (height, width) is seen in; 1 is the whole."""
        padded = self.padded(size, sampling.exact_size)
        tile = self.tile(padded, sampling)
        return tiling.count(padded, tile) if tile else 1

    def windows(self, sampling: Sampling) -> int:
        """Return how many windows all devices see at once."""
        return sampling.windows * (1 if self.mesh is None else self.mesh.size)

    def samples_at_once(self, size: tuple[int, int], sampling: Sampling) -> int:
        """Return how many samples of an image of a padded size are drawn together."""
        tile, samples = self.tile(size, sampling), sampling.samples
        return sizes.samples_at_once(size, samples, tile, sampling.windows, self.spatial)

    def groups(
        self, shapes: Sequence[tuple[int, int]], batch_size: int, sampling: Sampling
    ) -> Iterator[list[int]]:
        """Yield indices of images [(height, width)] that are restored together."""
        devices = (self._rows, self.sharing, self.spatial)
        options = (sampling.samples, sampling.exact_size)
        return sizes.groups(shapes, batch_size, sampling.tile, *devices, *options)

    def check_memory(self, size: tuple[int, int], sampling: Sampling) -> None:
        """Raise UserError where an image of (height, width) needs more memory than there is."""
        padded = self.padded(size, sampling.exact_size)
        tile = self.tile(padded, sampling)
        side = tile or max(padded)
        seen = math.prod(min(side, length) for length in padded)
        seen *= self.windows(sampling) if tile else 1
        device = jax.devices()[0] if self.mesh is None else self.mesh.devices.flat[0]
        is_here, views = device.platform == "cpu", sampling.ensemble
        host_memory.check(size, sampling.samples, seen, self._bytes_per_seen, is_here, views)

    def place(self, images: np.ndarray, by_rows: bool) -> Any:
        """Lay a batch of images over the devices, by rows or whole ones on each."""
        if self.mesh is None:
            return images
        return place(images, batch_sharding(self.mesh, 4) if by_rows else replicated(self.mesh))

    def replicate(self, values: Any) -> Any:
        """Lay the same on every device."""
        return jax.device_put(values, None if self.mesh is None else replicated(self.mesh))
