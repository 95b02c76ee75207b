"""The table of degradations, and recipes: what was done to an image, so that it can be redone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tpgdiff_jax.data.degradations import optics, sensor, weather


@dataclasses.dataclass(frozen=True)
class Degradation:
    """One way to harm a photograph.

    Attributes:
      sample: draws parameters from a numpy Generator.
      apply: (image float32 [H, W, 3] in [0, 1], **parameters) -> image of the same kind.
    """

    sample: Callable[[np.random.Generator], dict[str, Any]]
    apply: Callable[..., np.ndarray]


DEGRADATIONS = {
    "noise": Degradation(sensor.sample_gaussian_noise, sensor.gaussian_noise),
    "blur": Degradation(optics.sample_gaussian_blur, optics.gaussian_blur),
    "low_light": Degradation(sensor.sample_low_light, sensor.low_light),
    "haze": Degradation(weather.sample_haze, weather.haze),
    "rain": Degradation(weather.sample_rain, weather.rain),
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What was done to an image.

    Attributes:
      name: a key of `DEGRADATIONS`.
      params: the parameters of its `apply`, seeds included.
    """

    name: str
    params: dict[str, Any]


def sample_recipe(rng: np.random.Generator, name: str) -> Recipe:
    """Draw the parameters of one degradation."""
    return Recipe(name, DEGRADATIONS[name].sample(rng))


def degrade(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Apply a recipe; the same recipe and image always give the same pixels.

    Args:
      image: clean, uint8 [H, W, 3].
      recipe: what to do.

    Returns:
      degraded, uint8 [H, W, 3], rounded as a file would be.
    """
    degraded = DEGRADATIONS[recipe.name].apply(image.astype(np.float32) / 255, **recipe.params)
    return np.round(np.clip(degraded, 0, 1) * 255).astype(np.uint8)
