"""Make single prior branches count more or less than they did in training.

With D(P) the network's answer to the priors P, and s_b the strength of branch b,

    D(P) + sum_b (s_b - 1) [D(P) - D(P without b)]

which for one branch is classifier-free guidance (Ho & Salimans, arXiv 2207.12598).  The weights sum
to one, so it makes no difference whether the network predicts noise, x0 or v.  Strength 0 leaves
the branch out; every strength that is neither 0 nor 1 costs one more network call per step.
"""

from collections.abc import Callable, Mapping

import jax
from ml_collections import ConfigDict

from tpgdiff_jax.priors import BRANCHES, Priors
from tpgdiff_jax.reporting.errors import UserError

AS_TRAINED = (1.0, 1.0, 1.0)


def check_strengths(strengths: Mapping[str, float] | None, config: ConfigDict) -> tuple[float, ...]:
    """Return the strength of every branch, 1 where none is given.

    Args:
      strengths: branch -> strength: 1 as trained, 0 without the branch, above 1 stronger.
      config: what the weights were trained with.

    Raises:
      UserError: an unknown branch, a negative or infinite strength, a branch that the network was
        built without, or one that cannot be made weaker or stronger since the network never
        learned to do without it.
    """
    strengths = dict(strengths or {})
    for name, strength in strengths.items():
        if name not in BRANCHES:
            raise UserError(f"guidance: {name!r} is no branch; expected {', '.join(BRANCHES)}.")
        if not 0 <= strength < float("inf"):
            raise UserError(f"guidance: {name}={strength} must be 0 or more, and finite.")
        if strength != 1 and not config.model[f"use_{name}"]:
            raise UserError(
                f"guidance: {name}={strength}, but these weights have no {name} branch."
            )
        if strength not in (0, 1) and not config.model.get(f"dropout_{name}", 0.0):
            raise UserError(
                f"guidance: {name}={strength} needs weights that were trained with "
                f"config.model.dropout_{name} above 0; here use 1 (as trained) or 0 (without)."
            )
    return tuple(float(strengths.get(name, 1.0)) for name in BRANCHES)


def guided(
    answer: Callable[[Priors], jax.Array], priors: Priors, strengths: tuple[float, ...]
) -> jax.Array:
    """Return the network's answer with every branch at its strength.

    Args:
      answer: the network as a function of the priors; an absent branch is None.
      priors: of the images.
      strengths: of `BRANCHES`, as `check_strengths` returns them.
    """
    by_name = dict(zip(BRANCHES, strengths, strict=True))
    priors = priors.replace(**{name: None for name, s in by_name.items() if s == 0})
    as_trained = answer(priors)
    result = as_trained
    for name, strength in by_name.items():
        if strength != 1 and getattr(priors, name) is not None:
            without = answer(priors.replace(**{name: None}))
            result = result + (strength - 1) * (as_trained - without)
    return result
