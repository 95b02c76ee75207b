"""Branches weaker, stronger, or left out."""

import jax
import jax.numpy as jnp
import pytest

from tpgdiff_jax.config import base_config
from tpgdiff_jax.inference.guidance import BRANCHES, Guidance, check_strengths, guided
from tpgdiff_jax.priors import Priors

SHAPE = (1,)  # of its answer
WORTH = {"degradation": 1.0, "semantic": 10.0, "structure": 100.0}


def additive(priors):
    """A network to which each branch adds its worth, as far as it is not withheld."""
    total = jnp.full(1, 1000.0)
    for name in BRANCHES:
        if getattr(priors, name) is not None:
            total += priors.share(name, 1, jnp.float32) * WORTH[name]
    return total


@pytest.mark.parametrize(
    ("strengths", "expected"),
    [
        ({}, 1111),
        ({"semantic": 0}, 1101),
        ({"semantic": 2.5}, 1126),
        ({"degradation": 0.5, "structure": 3}, 1310.5),
        (dict.fromkeys(BRANCHES, 0), 1000),
    ],
)
def test_every_branch_counts_with_its_strength(strengths, expected):
    priors = Priors(*(jnp.ones((1, 2)) for _ in BRANCHES))
    assert guided(additive, priors, Guidance.of(strengths), SHAPE) == pytest.approx(expected)


def test_a_branch_that_is_absent_stays_so():
    priors = Priors(degradation=jnp.ones((1, 2)))
    strengths = Guidance.of({"semantic": 3.0, "structure": 0.5})
    assert guided(additive, priors, strengths, SHAPE) == pytest.approx(1001)


def test_a_strength_between_zero_and_one_lies_between(assert_near):
    """Also of a network that is not linear, strength 0 is approached continuously."""
    priors = Priors(semantic=jnp.ones((1, 3)))

    def network(priors):
        return jnp.sin(priors.share("semantic", 2, jnp.float32) * priors.semantic * 2)[0]

    def at(strength):
        return guided(network, priors, Guidance.of({"semantic": strength}), (3,))

    assert_near(at(0.5), (at(0) + at(1)) / 2, 1e-6)
    assert_near(at(0.01), at(0) + 0.01 * at(1), 1e-3)


def test_only_the_calls_that_count_are_made():
    """Strength 1 costs nothing more, and neither does 0: the branch is left out."""
    priors, calls = Priors(*(jnp.ones((1, 2)) for _ in BRANCHES)), []

    def watched(priors):
        jax.debug.callback(lambda: calls.append(1))
        return additive(priors)

    made = {}
    for strength in (1.0, 0.0, 2.0):
        strengths = Guidance.of({"semantic": strength})
        guided(watched, priors, strengths, SHAPE).block_until_ready()
        jax.effects_barrier()
        made[strength] = len(calls)
        calls.clear()
    assert made == {1.0: 1, 0.0: 1, 2.0: 2}


def test_the_network_is_traced_once():
    """Whatever the strengths are; tracing is most of what a new size of pictures waits for."""
    priors, traced = Priors(*(jnp.ones((1, 2)) for _ in BRANCHES)), []

    def counted(priors):
        traced.append(1)
        return additive(priors)

    jax.jit(lambda strengths: guided(counted, priors, Guidance.of(strengths), SHAPE))(
        {"semantic": 2.0}
    )
    assert len(traced) == 1


def test_strengths_are_checked_against_what_was_trained():
    config = base_config()
    with config.unlocked():
        config.model.dropout_semantic = 0.1
    assert check_strengths({"semantic": 2}, config) == {"semantic": 2.0}
    assert check_strengths(None, config) == {}
    with config.unlocked():
        config.model.dropout_structure = 0.0
    assert check_strengths({"structure": 0}, config) == {"structure": 0.0}
    with pytest.raises(ValueError, match="dropout_structure above 0"):
        check_strengths({"structure": 2}, config)
    with pytest.raises(ValueError, match="must be 0 or more"):
        check_strengths({"structure": float("nan")}, config)
