"""Make single prior branches count more or less than they did in training.

With D(P) the network's answer to the priors P, and s_b the strength of branch b,

    D(P) + sum_b (s_b - 1) [D(P) - D(P without b)]

which for one branch is classifier-free guidance (Ho & Salimans, arXiv 2207.12598).  The weights sum
to one, so it makes no difference whether the network predicts noise, x0 or v.  Strength 0 leaves
the branch out; every strength that is neither 0 nor 1 costs one more network call per step.  The
strengths are traced: one program serves them all.
"""

import numbers
from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tpgdiff_jax.priors import BRANCHES, Priors
from tpgdiff_jax.reporting.errors import UserError


@flax.struct.dataclass
class Guidance:
    """Which branches count otherwise than in training.

    Attributes:
      strengths: branch -> strength; traced, so that another strength needs no other program.  {}
        is as trained.
      left_out: branches that the program is compiled without.
    """

    strengths: dict[str, jax.Array | float]
    left_out: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())

    @classmethod
    def of(cls, strengths: Mapping[str, float]) -> "Guidance":
        """Name every branch, so that one program serves all strengths; absent ones count as 1."""
        return cls({name: strengths.get(name, 1.0) for name in BRANCHES})


AS_TRAINED = Guidance({})


def is_guidable(config: ConfigDict) -> bool:
    """Tell whether the network learned to do without a branch, so that its strength may vary."""
    return any(config.model.get(f"dropout_{name}", 0.0) for name in BRANCHES)


def check_strengths(strengths: Mapping[str, float] | None, config: ConfigDict) -> dict[str, float]:
    """Return the strengths of the branches that count otherwise than in training.

    Args:
      strengths: branch -> strength: 1 as trained, 0 without the branch, above 1 stronger.
      config: what the weights were trained with.

    Raises:
      UserError: an unknown branch, a strength that is no number, negative or infinite, a branch
        that the network was built without, or one that cannot be made weaker or stronger since the
        network never learned to do without it.
    """
    strengths = dict(strengths or {})
    for name, strength in strengths.items():
        if name not in BRANCHES:
            raise UserError(f"guidance: {name!r} is no branch; expected {', '.join(BRANCHES)}.")
        is_number = isinstance(strength, numbers.Real) and not isinstance(strength, bool)
        if not is_number or not 0 <= strength < float("inf"):
            raise UserError(f"guidance: {name}={strength!r} must be 0 or more, a finite number.")
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


def guided(
    answer: Callable[[Priors], jax.Array],
    priors: Priors,
    guidance: Guidance,
    shape: tuple[int, ...],
) -> jax.Array:
    """Return the network's answer with every branch at its strength.

    With strengths the sum above is taken term by term, and terms of weight 0 are not computed: one
    network call, and one more for each strength that is neither 0 nor 1.

    Args:
      answer: the network as a function of the priors; an absent branch is None, or withheld by
        `Priors.present`.
      priors: of the images.
      guidance: of the branches that count otherwise than in training.
      shape: of the answer; asking the network for it would trace it twice.
    """
    priors = priors.replace(**dict.fromkeys(guidance.left_out))
    given = {name: getattr(priors, name) for name in BRANCHES}
    batch = next((len(prior) for prior in given.values() if prior is not None), 0)
    if not guidance.strengths or not batch:
        return answer(priors)
    strengths = jnp.stack(
        [
            jnp.asarray(1.0 if given[name] is None else guidance.strengths[name], jnp.float32)
            for name in BRANCHES
        ]
    )
    weights, present = _terms(strengths)

    def term(number):
        mask = jnp.broadcast_to(present[number], (batch, len(BRANCHES)))
        return answer(priors.replace(present=mask)).astype(jnp.float32)

    def add(number, total):
        weight = weights[number]
        return jax.lax.cond(weight != 0, lambda: total + weight * term(number), lambda: total)

    return jax.lax.fori_loop(0, len(weights), add, jnp.zeros(shape, jnp.float32))


def _terms(strengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the weight [4] of each network call, and which branches [4, 3] it sees.

    The first sees all but those of strength 0, each of the others one less.
    """
    takes_part = (strengths != 0).astype(jnp.float32)
    extra = jnp.where(takes_part > 0, strengths - 1, 0)
    weights = jnp.concatenate([1 + extra.sum(keepdims=True), -extra])
    without = jnp.concatenate([jnp.zeros((1, len(strengths))), jnp.eye(len(strengths))])
    return weights, takes_part * (1 - without)
