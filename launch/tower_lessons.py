"""What the programs that change published weights share: reading, writing, crops to look at."""

import argparse
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import grain
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.published import DEFAULT_WEIGHTS
from tpgdiff_jax.data.degradations.mix import Mixture
from tpgdiff_jax.data.pipeline import training_batches
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.reporting.errors import UserError

Published = tuple[dict[str, Any], dict[str, Any]]  # description, group -> parameters


def parser(what: str) -> argparse.ArgumentParser:
    """Return a command line with the flags that both programs have; `what` they do."""
    found = argparse.ArgumentParser(description=what)
    found.add_argument("--photos", type=pathlib.Path, required=True, help="clean ones")
    found.add_argument("--output", type=pathlib.Path, required=True, help="weights to write")
    found.add_argument("--checkpoint", default=str(DEFAULT_WEIGHTS), help="to start from")
    return found


def load(checkpoint: str) -> tuple[dict[str, Any], dict[str, Any], ConfigDict]:
    """Read published weights.

    Returns:
      (description, group -> parameters, configuration).

    Raises:
      UserError: they cannot be read, or hold no convolutional tower that names several
        degradations at once.
    """
    description, weights = published.load(checkpoint)
    config = published.described_config(description, checkpoint)
    if config.priors.encoder != "conv" or config.priors.classification != "multi":
        raise UserError(f"{checkpoint} has no conv tower that names several at once.")
    return description, weights, config


def write(output: pathlib.Path, make: Callable[[], Published]) -> int:
    """Write the weights that a program makes, and say so; return the exit status.

    Args:
      output: a `.safetensors` file that is not there yet.
      make: returns (description, group -> parameters); its `UserError` becomes a sentence.
    """
    try:
        if output.exists():  # said before the work, not after it
            raise UserError(f"{output} exists; name another file or remove it.")
        description, weights = make()
        published.save(output, weights, description, description["stored_as"])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Written: {output.absolute()}, described in the .json beside it.")
    return 0


def mixture(names: tuple[str, ...], shares: Mapping[str, float]) -> Mixture:
    """Return how lessons are degraded; `shares`: how often a name comes, 1 where it has none."""
    weights = tuple(shares.get(name, 1.0) for name in names)
    severity, mixed = (0.5, 5.0), {"max_mixed": 3, "mix_share": 0.15, "clean_share": 0.1}
    return Mixture(names=names, weights=weights, severity=severity, **mixed)


def crops(
    photos: pathlib.Path, mixture: Mixture, crop_size: int, **options: Any
) -> grain.IterDataset:
    """Return endless batches of degraded crops; `options` of `training_batches`."""
    source = PhotoFolder(photos, min_size=crop_size, cache_mb=600)
    known = {"crop_size": crop_size, "mixture": mixture, "multi_hot": True, "tone_jitter": 0.2}
    return training_batches([source], read_threads=1, **known, **options)
