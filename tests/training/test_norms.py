"""Norms of trees are those of optax, with sums shared by what is small."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tpgdiff_jax.distributed.rules import MIN_SHARDED_ELEMENTS
from tpgdiff_jax.training.norms import clip_by_norm, tree_norm

TREE = {
    "large": jnp.linspace(-1.0, 1.0, MIN_SHARDED_ELEMENTS).reshape(64, -1),
    "small": [jnp.arange(5.0), jnp.ones((2, 3))],
    "single": jnp.float32(2.0),
}


@pytest.mark.parametrize("tree", [TREE, TREE["large"], TREE["small"], [jnp.zeros(3)]])
def test_the_norm_is_that_of_all_numbers(tree):
    np.testing.assert_allclose(tree_norm(tree), optax.tree.norm(tree), rtol=1e-6)


def test_small_leaves_share_one_sum():
    sums = str(jax.make_jaxpr(tree_norm)(TREE)).count("reduce_sum")
    assert sums == 2


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("place", ["large", "single"])
def test_what_is_not_finite_shows_in_the_norm(bad, place):
    tree = TREE | {place: jnp.full_like(TREE[place], bad)}
    assert not jnp.isfinite(tree_norm(tree))


@pytest.mark.parametrize("largest", [1.0, 1e6])
def test_clipping_is_that_of_optax(largest):
    ours, its = clip_by_norm(largest), optax.clip_by_global_norm(largest)
    assert jax.tree.structure(ours.init(TREE)) == jax.tree.structure(its.init(TREE))
    found, expected = (tx.update(TREE, tx.init(TREE))[0] for tx in (ours, its))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
