"""How images are restored: one record, checked once, before any device is touched."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.inference.guidance import check_strengths
from tpgdiff_jax.inference.passes import Passes
from tpgdiff_jax.keys.use import ENSEMBLE, SEED
from tpgdiff_jax.reporting.errors import UserError, is_whole, require_whole

_SMALLEST_TILE = 64  # pixels


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How images are restored.

    Attributes:
      steps: network calls per image (and window); None: the weights' own number.
      sampler: one of `samplers.SAMPLERS`; None: the weights' own.
      seed: of the sampling noise.
      clamp: clip every estimate of the clean image to [0, 1]; None: the weights' own choice.
      tile: side of the windows in which the network sees large images, blended at every step; 0
        for always the whole image.  None: images above a megapixel are tiled.
      windows: how many of them each device sees at once; memory grows with it.
      guidance: strengths of prior branches, such as {"semantic": 2.0}; see
        `guidance.check_strengths`.
      samples: restorations drawn of each image; 2 or more also give the deviation.  As many are
        drawn together as a whole image may have pixels, the others in turns (one by one where their
        number is prime), so that only the results themselves take more memory.
      ensemble: views of each image whose restorations are averaged: 1, 2 (its mirror image), 4
        (also upside down); each sample is such an average.
      passes: restorations in a row, at most; a further one only of images whose result still looks
        degraded, see `inference.passes`; it begins with the mean of the samples, and the deviation
        is its own.  None: the weights' own number.
      exact_size: pad no image before its priors are computed, as the released program; every size
        then needs a program of its own.
    """

    steps: int | None = None
    sampler: str | None = None
    seed: int = 0
    clamp: bool | None = None
    tile: int | None = None
    windows: int = 1
    guidance: Mapping[str, float] | None = None
    samples: int = 1
    ensemble: int = 1
    passes: int | None = None
    exact_size: bool = False

    def __post_init__(self):
        """Check what needs no weights."""
        require_whole("samples", self.samples)
        require_whole("windows", self.windows)
        if self.passes is not None:
            require_whole("passes", self.passes)
        require_whole("seed", self.seed, 0)
        if not SEED.fits(int(self.seed)):
            raise UserError(f"seed={self.seed} must be {SEED.words}.")
        if not ENSEMBLE.fits(self.ensemble):
            raise UserError(
                f"ensemble={self.ensemble!r} must be {ENSEMBLE.words}: views of each image."
            )
        fits = is_whole(self.tile) and (self.tile == 0 or self.tile >= _SMALLEST_TILE)
        if self.tile is not None and not fits:
            raise UserError(
                f"tile={self.tile!r} must be 0 (always whole) or a whole number of at least "
                f"{_SMALLEST_TILE} pixels."
            )
        for name in ("clamp", "exact_size"):
            value = getattr(self, name)
            is_open = name == "clamp" and value is None
            if not is_open and not isinstance(value, bool | np.bool_):
                raise UserError(f"{name}={value!r} must be True or False.")
        if not isinstance(self.sampler, str | None):
            raise UserError(f"sampler={self.sampler!r} must be a sampler's name.")
        if not isinstance(self.guidance, Mapping | None):
            raise UserError(
                f"guidance={self.guidance!r} must name branches with their strengths, such as "
                "{'semantic': 2.0}."
            )

    def checked(self, config: ConfigDict, sde: IRSDE, spatial: int = 1) -> "Sampling":
        """Fill in what the weights decide, and check the rest.

        Args:
          config: what the weights were trained with; reads `eval` and `model`.
          sde: what they were trained with.
          spatial: devices that share the rows of an image.

        Raises:
          UserError: a value that does not exist or does not fit the weights.
        """
        if self.exact_size and spatial > 1:
            raise UserError("exact_size=True: devices cannot share an image's rows then.")
        sampler = self.sampler or config.eval.sampler
        steps = config.eval.steps if self.steps is None else self.steps
        passes = config.eval.passes if self.passes is None else self.passes
        samplers.check_sampler(sampler, sde, steps)
        Passes.of(passes, config)
        return dataclasses.replace(
            self,
            sampler=sampler,
            steps=steps,
            passes=passes,
            clamp=config.eval.clamp if self.clamp is None else self.clamp,
            guidance=check_strengths(self.guidance, config),
        )

    def as_logged(self) -> dict[str, Any]:
        """Return what a job's log says of each result; `clamp` is the weights' own there."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "clamp"}
