"""Average published weights of one shape: often better than each of them, and free.

    python launch/average_weights.py --output=FILE.safetensors [--only=unet]
        [--weights-dtype=bfloat16] [--passes=2] 0.4=FIRST.safetensors 0.6=SECOND.safetensors

Runs that started from the same weights end near enough to one another that what lies between them
restores well, too (Wortsman et al., arXiv 2203.05482).  A negative share leads away from its file:
-0.2=FIRST.safetensors 1.2=SECOND.safetensors goes on from the first beyond the second.  What
`--only` does not name is the last file's, and so is the description.  Kernels stored as bfloat16
are the same numbers whether they are computed with in float32 or bfloat16, so that both restore
alike.
"""

import argparse
import math
import pathlib
import re
import sys
from collections.abc import Iterable, Sequence

import jax
import numpy as np
import tower_lessons

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.storing import STORED_TYPES
from tpgdiff_jax.inference.passes import Passes
from tpgdiff_jax.reporting.errors import UserError

# Of a description: what may differ between files that mean the same.
_OWN = ("weights", "trained_steps", "ema_decay", "stored_as", "averaged", "eval")


def average(
    shares: Sequence[float], paths: Sequence[str], only: Iterable[str] = ()
) -> tower_lessons.Published:
    """Average published weights.

    Args:
      shares: of each file, which sum to 1.
      paths: of the files.
      only: groups that are averaged; all by default.

    Returns:
      (description, group -> parameters in float32).

    Raises:
      UserError: shares that do not sum to 1, files that cannot be read or mean different things, or
        a group that the last one lacks.
    """
    if abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"the shares {', '.join(map(str, shares))} must sum to 1.")
    files = [published.load(path) for path in paths]
    description, weights = files[-1]
    for path, (other, _) in zip(paths, files, strict=True):
        for key in sorted((description.keys() | other.keys()) - set(_OWN)):
            if description.get(key) != other.get(key):
                raise UserError(
                    f"{path} and {paths[-1]} differ in {key!r}; average like with like."
                )
    if unknown := set(only) - weights.keys():
        raise UserError(
            f"--only={','.join(sorted(unknown))}: {paths[-1]} has {', '.join(sorted(weights))}."
        )
    for group in only or tuple(weights):
        trees = [found[group] for _, found in files]
        weights[group] = jax.tree.map(lambda *leaves: _mean(shares, leaves), *trees)
    names = [found["weights"] for found, _ in files]
    return description | {"averaged": dict(zip(names, shares, strict=True))}, weights


def _mean(shares: Sequence[float], leaves: Sequence[np.ndarray]) -> np.ndarray:
    pairs = zip(shares, leaves, strict=True)
    return sum(share * leaf.astype(np.float64) for share, leaf in pairs).astype(np.float32)


def _part(text: str) -> tuple[float, str]:
    share, _, path = text.strip().partition("=")
    try:
        found = float(share)
    except ValueError:
        found = math.nan
    if not (path and math.isfinite(found)):
        example = "such as 0.4=FIRST.safetensors, or -0.2=FIRST.safetensors"
        raise argparse.ArgumentTypeError(f"{text.strip()!r} is no SHARE=FILE, {example}")
    return found, path


def _with_negative_shares(arguments: Sequence[str]) -> list[str]:
    """Return the arguments so that argparse takes -0.2=FILE for no flag: it begins with a blank."""
    return [f" {each}" if re.match(r"-[\d.][^=]*=", each) else each for each in arguments]


def main(arguments: list[str] | None = None) -> int:
    """Average and write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="weights to write")
    parser.add_argument("--only", default="", help="groups, with commas: unet,structure,...")
    parser.add_argument(
        "--weights-dtype", choices=STORED_TYPES, help="of kernels; by default the last file's"
    )
    passes = "restorations in a row, at most, unless their user says; by default as before"
    parser.add_argument("--passes", type=int, help=passes)
    parts = "shares sum to 1; a negative one leads away from its file"
    parser.add_argument("parts", type=_part, nargs="+", metavar="SHARE=FILE", help=parts)
    given = sys.argv[1:] if arguments is None else arguments
    flags = parser.parse_args(_with_negative_shares(given))
    shares, paths = zip(*flags.parts, strict=True)
    only = tuple(filter(None, flags.only.split(",")))

    def averaged():
        description, weights = average(shares, paths, only)
        stored_as = flags.weights_dtype or description["stored_as"]
        description |= {"stored_as": stored_as}
        if flags.passes is not None:
            Passes.of(flags.passes, published.described_config(description, paths[-1]))
            description["eval"] = description["eval"] | {"passes": flags.passes}
        return description, weights

    return tower_lessons.write(flags.output, averaged)


if __name__ == "__main__":
    sys.exit(main())
