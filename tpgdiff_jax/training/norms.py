"""Norms of whole trees, such as a gradient's, in few operations."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from tpgdiff_jax.distributed.rules import MIN_SHARDED_ELEMENTS


def tree_norm(tree: Any) -> jax.Array:
    """Return the square root of the sum of all squares.

    Most leaves of a network are vectors of a few hundred numbers, and a sum of each by itself costs
    an accelerator a start or two.  They are joined first: so small, they lie whole on every device.

    Args:
      tree: arrays, at least one of them.
    """
    leaves = jax.tree.leaves(tree)
    small = [leaf.ravel() for leaf in leaves if leaf.size < MIN_SHARDED_ELEMENTS]
    large = [leaf for leaf in leaves if leaf.size >= MIN_SHARDED_ELEMENTS]
    if small:
        large.append(jnp.concatenate(small))
    return jnp.sqrt(sum(jnp.square(part).sum() for part in large))


def clip_by_norm(largest: float) -> optax.GradientTransformation:
    """Return what shortens a gradient to this norm, as `optax.clip_by_global_norm` does."""

    def shorten(gradient: Any, params: Any) -> Any:
        del params
        norm = tree_norm(gradient)

        def clip(leaf):
            return jnp.where(norm < largest, leaf, (leaf / norm.astype(leaf.dtype)) * largest)

        return jax.tree.map(clip, gradient)

    return optax.stateless(shorten)
