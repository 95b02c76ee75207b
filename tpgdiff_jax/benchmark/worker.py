"""Restore and score batches of images on the devices of one process."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.benchmark import program
from tpgdiff_jax.benchmark.settings import Settings
from tpgdiff_jax.benchmark.work import Kind, Loaded
from tpgdiff_jax.evaluation import perceptual
from tpgdiff_jax.evaluation.protocols import PROTOCOLS, SCORES
from tpgdiff_jax.inference.engine import Finish
from tpgdiff_jax.inference.sizes import alike, filled_up
from tpgdiff_jax.models.tpgdiff import TPGDiff


@dataclasses.dataclass(frozen=True)
class System:
    """What restores: a model with its variables on the host, and its configuration."""

    model: TPGDiff
    variables: Any
    config: ConfigDict


class Worker:
    """Brings batches through the programs, which are compiled when they are first needed.

    Attributes:
      devices: of this process.
      scores: names of those that can be computed here, of every image that is large enough.
    """

    def __init__(self, settings: Settings, mesh: Mesh, system: System | None):
        """Lay the networks on the devices.

        Args:
          settings: what to do.
          mesh: the devices of this process.
          system: what restores; None where somebody's outputs are scored.
        """
        self._settings, self._mesh, self._system = settings, mesh, system
        self.devices = mesh.size
        self._variables = system and program.replicate(system.variables, mesh)
        names = tuple(n for n in settings.metrics if n in (*SCORES, *perceptual.NAMES))
        deep = tuple(name for name in names if name in perceptual.NAMES)
        networks, missing = program.load_networks(deep)
        self.scores = tuple(name for name in names if name not in missing)
        self._networks = program.replicate(networks, mesh)
        self._programs: dict[Any, Callable] = {}

    def batches(self, images: Sequence[Loaded]) -> Iterator[list[int]]:
        """Yield which images are worked on together."""
        each = 1 if self._settings.exact else self._settings.batch_size
        return alike([image.kind for image in images], lambda kind: each * self.devices)

    def start(self, images: Sequence[Loaded]) -> Finish:
        """Restore and score a batch; numbers for each of its images, and the image.

        All at once: seconds that another batch shares would be no measure.
        """
        results = self._call(images[0].kind, images, filled_up(len(images), self.devices))
        return lambda: results

    def _call(self, kind: Kind, images: Sequence[Loaded], rows: int) -> list[dict[str, Any]]:
        """Work on images; what the batch lacks is filled with copies of the first."""
        images, count = [*images, *[images[0]] * (rows - len(images))], len(images)
        lq, gt, sizes, hashes = (
            program.to_devices(np.stack(arrays), self._mesh)
            for arrays in (
                [image.lq for image in images],
                [image.gt for image in images],
                [np.array(image.size, np.int32) for image in images],
                [image.name_hash for image in images],
            )
        )
        extra, seconds = {"finite": np.full(rows, True)}, 0.0
        if self._system is None:
            theirs = np.stack([image.restored for image in images])
            restored = program.to_devices(theirs.astype(np.float32) / 255, self._mesh)
        else:
            restore = self._restorer(kind, lq, hashes)
            started = time.perf_counter()
            extra = jax.block_until_ready(restore(self._variables, lq, hashes))
            seconds = (time.perf_counter() - started) / (rows // self._mesh.size)
            restored = extra.pop("restored")
        score = self._scorer(kind, restored, lq, gt, sizes)
        answer = jax.device_get(score(self._networks, restored, lq, gt, sizes) | extra)
        return [
            {"seconds": seconds} | {name: value[row] for name, value in answer.items()}
            for row in range(count)
        ]

    def _restorer(self, kind: Kind, *arrays: jax.Array) -> Callable:
        def make():
            height, width = kind.shape
            is_large = height * width > self._settings.largest_whole * 1e6
            tile = self._settings.tile if is_large else 0
            tile = tile if max(kind.shape) > tile else 0
            system = self._system
            return program.restorer(
                system.model, system.config, kind.variant, self._settings.seed, tile
            )

        return self._compiled(("restore", kind, len(arrays[0])), make, self._variables, *arrays)

    def _scorer(self, kind: Kind, *arrays: jax.Array) -> Callable:
        def make():
            names = program.scores_of(kind.shape, self.scores)
            return program.scorer(PROTOCOLS[kind.protocol], names)

        # Every variant has the same scores.
        key = ("score", kind._replace(variant=None), len(arrays[0]))
        return self._compiled(key, make, self._networks, *arrays)

    def _compiled(self, key: tuple[str, Kind, int], make: Callable, *args: Any) -> Callable:
        if key not in self._programs:
            # Buckets come one after the other: older programs are not needed again.
            shape = key[1].shape
            self._programs = {k: v for k, v in self._programs.items() if k[1].shape == shape}
            self._programs[key] = program.compiled(make(), self._mesh, 1, *args)
        return self._programs[key]
