"""Make single prior branches count more or less than they did in training.

With D(P) the network's answer to the priors P, and s_b the strength of branch b,

    D(P) + sum_b (s_b - 1) [D(P) - D(P without b)]

which for one branch is classifier-free guidance (Ho & Salimans, arXiv 2207.12598).  The weights sum
to one, so it makes no difference whether the network predicts noise, x0 or v.  Strength 0 leaves
the branch out; every strength that is neither 0 nor 1 costs one more network call per step.
"""

from collections.abc import Callable, Mapping

import flax.struct
import jax
from ml_collections import ConfigDict

from tpgdiff_jax.priors import BRANCHES, Priors
from tpgdiff_jax.reporting.errors import UserError


@flax.struct.dataclass
class Guidance:
    """Which branches count otherwise than in training.

    A program is compiled for the branches that are named, not for their strengths: a slider that
    moves needs no new one.

    Attributes:
      strengths: branch -> strength, of those made weaker or stronger; traced.
      left_out: the branches of strength 0; static.
    """

    strengths: dict[str, jax.Array | float]
    left_out: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())

    @classmethod
    def of(cls, strengths: Mapping[str, float]) -> "Guidance":
        """Sort strengths, as `check_strengths` returns them, into what is traced and what not."""
        left_out = tuple(name for name in BRANCHES if strengths.get(name) == 0)
        return cls({k: v for k, v in strengths.items() if v not in (0, 1)}, left_out)


AS_TRAINED = Guidance({})


def check_strengths(strengths: Mapping[str, float] | None, config: ConfigDict) -> dict[str, float]:
    """Return the strengths of the branches that count otherwise than in training.

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
    return {name: float(strength) for name, strength in strengths.items() if strength != 1}


def guided(answer: Callable[[Priors], jax.Array], priors: Priors, guidance: Guidance) -> jax.Array:
    """Return the network's answer with every branch at its strength.

    Args:
      answer: the network as a function of the priors; an absent branch is None.
      priors: of the images.
      guidance: of the branches that count otherwise than in training.
    """
    priors = priors.replace(**dict.fromkeys(guidance.left_out))
    as_trained = answer(priors)
    result = as_trained
    for name in BRANCHES:
        if name in guidance.strengths and getattr(priors, name) is not None:
            without = answer(priors.replace(**{name: None}))
            result = result + (guidance.strengths[name] - 1) * (as_trained - without)
    return result
