"""Recipes: what was done to an image, so that anyone can do it again; and how they are drawn.

A recipe holds names, severities and one seed.  Everything else follows from them, so the same
recipe and image always give the same pixels.
"""

import dataclasses
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tpgdiff_jax.data.degradations.registry import DEGRADATIONS, STAGES
from tpgdiff_jax.reporting.errors import UserError

MAX_SEVERITY = 5.0

# The eleven combinations of CDD-11 (Guo et al., "OneRestore", ECCV 2024, arXiv 2407.04621).
PRESETS = {
    "cdd11": (
        "low_light",
        "haze",
        "rain",
        "snow",
        "low_light + haze",
        "low_light + rain",
        "low_light + snow",
        "haze + rain",
        "haze + snow",
        "low_light + haze + rain",
        "low_light + haze + snow",
    )
}
_ALIASES = {"lowlight": "low_light", "low": "low_light", "motionblur": "motion_blur"}
# Only one of each of these happens to a photograph; weather may come together.
_EXCLUSIVE_STAGES = ("exposure", "sensor", "coding")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What was done to an image, in order.

    Attributes:
      steps: (name of a degradation, severity in [0, 5]) pairs; severity 0 does nothing.
      seed: decides everything else.
    """

    steps: tuple[tuple[str, float], ...]
    seed: int

    def __post_init__(self):
        for name, severity in self.steps:
            _check_name(name)
            if not 0 <= severity <= MAX_SEVERITY:
                raise UserError(f"{name}: severity {severity} is not in [0, {MAX_SEVERITY:g}].")
        if self.seed < 0 and self.steps:  # pairs were not degraded here and have no seed
            raise UserError(f"A recipe's seed is {self.seed}; expected 0 or more.")

    @property
    def name(self) -> str:
        """The names joined, e.g. `haze+rain`."""
        return "+".join(name for name, _ in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` reads."""
        steps = [{"name": name, "severity": severity} for name, severity in self.steps]
        return {"steps": steps, "seed": self.seed}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Recipe":
        """Read what `to_json` wrote.

        Raises:
          UserError: something else; or as the recipe itself.
        """
        try:
            steps = tuple((step["name"], float(step["severity"])) for step in data["steps"])
            seed = int(data["seed"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{data!r} is no recipe; expected steps, each with name and severity, and seed."
            ) from error
        return Recipe(steps, seed)


def degrade(image: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Apply a recipe.

    Args:
      image: clean, uint8 [H, W, 3].
      recipe: what to do.

    Returns:
      degraded, uint8 [H, W, 3], rounded as a file would be.
    """
    degraded = image.astype(np.float32) / 255
    for name, params in step_params(recipe):
        degraded = DEGRADATIONS[name].apply(degraded, **params)
    return np.round(np.clip(degraded, 0, 1) * 255).astype(np.uint8)


def step_params(recipe: Recipe) -> list[tuple[str, dict[str, Any]]]:
    """Return the parameters of each step; a name's draws do not depend on the other steps."""
    return [
        (name, DEGRADATIONS[name].sample(_step_rng(recipe.seed, name), severity))
        for name, severity in recipe.steps
    ]


def _step_rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])


def parse(text: str, *, severity: float = 3.0, seed: int = 0) -> Recipe:
    """Read a recipe that a person wrote, e.g. `lowlight + haze:2 + rain`.

    Args:
      text: names joined by `+`, in any order, each with its own severity after a colon if wanted.
      severity: of the names without one.
      seed: of the recipe.

    Returns:
      the recipe, its steps in the order in which they happen to a photograph.

    Raises:
      UserError: an unknown name, a name twice, or a severity that is no number in [0, 5].
    """
    steps = []
    for part in text.split("+"):
        name, _, strength = part.strip().partition(":")
        name = _ALIASES.get(name.strip().lower(), name.strip().lower())
        _check_name(name)
        try:
            steps.append((name, float(strength) if strength else float(severity)))
        except ValueError as error:
            raise UserError(f"{text!r}: {strength!r} is no severity (0 to 5).") from error
    names = [name for name, _ in steps]
    if len(set(names)) < len(names):
        raise UserError(f"{text!r} names a degradation twice.")
    return Recipe(in_order(steps), seed)


def in_order(steps: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Sort steps as they happen to a photograph: scene, weather, lens, ..., coding."""
    known = list(DEGRADATIONS)
    return tuple(
        sorted(
            steps,
            key=lambda step: (STAGES.index(DEGRADATIONS[step[0]].stage), known.index(step[0])),
        )
    )


def expand(names: Sequence[str]) -> tuple[str, ...]:
    """Replace the names of presets by their recipes."""
    return tuple(recipe for name in names for recipe in PRESETS.get(name, (name,)))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """How training recipes are drawn.

    Attributes:
      names: degradations, in the order of their labels.
      weights: how often each comes, relative to the others; () for equal shares, in turns.
      max_mixed: up to so many at once.
      severity: (least, most), drawn uniformly; some begin at a least of their own, see
        `registry.Degradation`.
      mix_share: of the recipes with more than one degradation, 2 to `max_mixed` equally often;
        negative: 1 to `max_mixed` equally often.
      clean_share: of the recipes that do nothing, so that a clean photo is left alone.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] = ()
    max_mixed: int = 1
    severity: tuple[float, float] = (1.0, MAX_SEVERITY)
    mix_share: float = -1.0
    clean_share: float = 0.0

    def __post_init__(self):
        for name in self.names:
            _check_name(name)
        if self.weights and len(self.weights) != len(self.names):
            raise UserError(
                f"data.weights has {len(self.weights)} numbers for {len(self.names)} degradations."
            )
        if any(weight < 0 for weight in self.weights) or (self.weights and not sum(self.weights)):
            raise UserError(
                f"data.weights={self.weights}: expected numbers of 0 or more, not all 0."
            )
        low, high = self.severity
        if not 0 <= low <= high <= MAX_SEVERITY:
            raise UserError(f"data.severity={self.severity}: expected 0 <= least <= most <= 5.")
        if self.mix_share > 1 or (self.mix_share > 0 and self.max_mixed < 2):
            raise UserError(
                f"data.mix_share={self.mix_share}: expected at most 1, and 0 or less where "
                f"data.max_mixed={self.max_mixed} allows no mixture."
            )
        if not 0 <= self.clean_share < 1:
            raise UserError(f"data.clean_share={self.clean_share}: expected 0 or more, below 1.")

    def draw(self, rng: np.random.Generator, turn: int) -> Recipe:
        """Draw a recipe.

        Args:
          rng: source of randomness.
          turn: number of the example; with equal shares it chooses the first degradation.
        """
        # Shares of 0 draw nothing, so that recipes without them stay what they were.
        if self.clean_share and rng.random() < self.clean_share:
            return Recipe((), int(rng.integers(2**31)))
        shares = np.array(self.weights or [1.0] * len(self.names))
        first = int(rng.choice(len(self.names), p=shares / shares.sum()))
        first = first if self.weights else turn % len(self.names)
        wanted = self._number(rng)
        chosen = [self.names[first]]
        others = [i for i in range(len(self.names)) if i != first and shares[i] > 0]
        if wanted > 1 and others:
            p = shares[others] / shares[others].sum()
            for index in rng.choice(others, len(others), replace=False, p=p):
                if len(chosen) < wanted and _fits(self.names[index], chosen):
                    chosen.append(self.names[index])
        steps = [(name, self._severity(rng, name)) for name in chosen]
        return Recipe(in_order(steps), int(rng.integers(2**31)))

    def _severity(self, rng: np.random.Generator, name: str) -> float:
        low, high = self.severity
        low = max(low, min(DEGRADATIONS[name].least_drawn, high))
        return round(float(rng.uniform(low, high)), 3)

    def _number(self, rng: np.random.Generator) -> int:
        """Draw how many degradations come together."""
        if self.mix_share < 0:
            return int(rng.integers(1, self.max_mixed + 1))
        if rng.random() >= self.mix_share:
            return 1
        return int(rng.integers(2, self.max_mixed + 1))

    def encode(self, recipe: Recipe) -> dict[str, np.ndarray]:
        """Turn a recipe of these names into arrays, so that a batch can carry it.

        Returns:
          {"severity": thousandths, int32 [K], 0 where a name is absent; "recipe_seed": int32 []}.
        """
        severity = np.zeros(len(self.names), np.int32)
        for name, value in recipe.steps:
            severity[self.names.index(name)] = round(value * 1000)
        return {"severity": severity, "recipe_seed": np.int32(recipe.seed)}

    def decode(self, severity: np.ndarray, recipe_seed: int) -> Recipe:
        """Return the recipe that `encode` turned into arrays; the very same one if drawn here."""
        steps = [(self.names[i], int(severity[i]) / 1000) for i in np.flatnonzero(severity)]
        return Recipe(in_order(steps), int(recipe_seed))

    def multi_hot(self, recipe: Recipe) -> np.ndarray:
        """Return which of `names` a recipe holds: float32 [K] of 0 and 1."""
        present = {name for name, severity in recipe.steps if severity > 0}
        return np.array([name in present for name in self.names], np.float32)


def _fits(name: str, chosen: Sequence[str]) -> bool:
    stage = DEGRADATIONS[name].stage
    taken = {DEGRADATIONS[other].stage for other in chosen}
    return stage not in _EXCLUSIVE_STAGES or stage not in taken


def _check_name(name: str) -> None:
    if not isinstance(name, str) or name not in DEGRADATIONS:
        plain = re.sub(r"\s+", " ", str(name))
        raise UserError(f"{plain!r} is no degradation; expected one of {', '.join(DEGRADATIONS)}.")
