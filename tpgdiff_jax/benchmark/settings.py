"""What a benchmark job shall do, read from the configuration and checked before any work."""

import dataclasses
import itertools
import pathlib
import re
from typing import Any

from ml_collections import ConfigDict

from tpgdiff_jax.benchmark.presets import resolve
from tpgdiff_jax.benchmark.sets import SetSpec
from tpgdiff_jax.evaluation import optional, perceptual, protocols
from tpgdiff_jax.priors import BRANCHES
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.places import shown

METRICS = (*protocols.SCORES, *perceptual.NAMES, *optional.NAMES)


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to restore: a sampler, its steps, which priors are switched off, and views.

    Attributes:
      sampler, steps: None stands for somebody else's outputs.
      without: priors that are left out.
      ensemble, passes: see `inference.sampling.Sampling`.
    """

    sampler: str | None = None
    steps: int | None = None
    without: tuple[str, ...] = ()
    ensemble: int = 1
    passes: int = 1

    @property
    def name(self) -> str:
        """What tables call it; also the name of its folder."""
        if self.sampler is None:
            return "predictions"
        missing = f"-no-{'-'.join(self.without)}" if self.without else ""
        views = f"-x{self.ensemble}" if self.ensemble > 1 else ""
        passes = f"-p{self.passes}" if self.passes > 1 else ""
        return f"{self.sampler}-{self.steps}{views}{passes}{missing}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """A checked `config.benchmark`; its fields are the keys explained in `config.py`."""

    specs: tuple[SetSpec, ...]
    root: pathlib.Path
    metrics: tuple[str, ...]
    samplers: tuple[str, ...]
    steps: tuple[int, ...]
    ablations: tuple[tuple[str, ...], ...]
    ensembles: tuple[int, ...]
    passes: tuple[int, ...]
    batch_size: int
    exact: bool
    bucket: int
    tile: int
    largest_whole: float
    seed: int
    save_images: bool
    inception_weights: str

    def variants(self, sampler: str, steps: int, passes: int = 1) -> list[Variant]:
        """List every way to restore, each once; the arguments are the weights' own choice."""
        choices = itertools.product(
            self.samplers or (sampler,),
            self.steps or (steps,),
            self.ablations,
            self.ensembles,
            self.passes or (passes,),
        )
        return [Variant(*choice) for choice in dict.fromkeys(choices)]

    def identity(self) -> dict[str, Any]:
        """Return what must not change when a job goes on, as plain JSON data."""
        kept = ("metrics", "exact", "bucket", "tile", "largest_whole", "seed")
        fields = {name: getattr(self, name) for name in kept}
        # Only where images share a program may their number change a score's last digits.
        return (
            fields
            | {"metrics": list(self.metrics), "root": shown(self.root)}
            | ({} if self.exact else {"batch_size": self.batch_size})
        )


def read_settings(config: ConfigDict) -> Settings:
    """Read `config.benchmark`, whose values fit the table of keys.

    Raises:
      UserError: an unknown test set or prior, or a set's field that does not fit.
    """
    group = config.benchmark
    same = ("batch_size", "exact", "bucket", "tile", "largest_whole", "seed", "save_images")
    return Settings(
        specs=tuple(resolve(tuple(group.sets), group.protocol)),
        root=pathlib.Path(group.root),
        metrics=tuple(group.metrics),
        samplers=tuple(group.samplers),
        steps=tuple(group.steps),
        ablations=read_ablations(group.without),
        ensembles=tuple(group.ensembles),
        passes=tuple(group.passes),
        inception_weights=group.inception_weights,
        **{key: group[key] for key in same},
    )


def read_ablations(text: str) -> tuple[tuple[str, ...], ...]:
    """Read which priors are switched off, e.g. `semantic, semantic+structure`.

    The whole system is always among the answers, as the one to compare with; `all` stands for
    every subset.

    Raises:
      UserError: an unknown prior.
    """
    subsets = [()]
    if text.strip() == "all":
        subsets += [
            chosen for size in (1, 2, 3) for chosen in itertools.combinations(BRANCHES, size)
        ]
    else:
        for part in filter(None, map(str.strip, text.split(","))):
            names = set(re.split(r"\s*\+\s*", part))
            if part != "none" and not names <= set(BRANCHES):
                raise UserError(
                    f"config.benchmark.without={text!r}: expected 'all', or sets of "
                    f"{', '.join(BRANCHES)} such as 'semantic, semantic+structure'."
                )
            subsets.append(tuple(name for name in BRANCHES if name in names))
    return tuple(dict.fromkeys(subsets))
