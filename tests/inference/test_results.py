"""What becomes of the results of one pass after another."""

import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.inference.results import merged, summarised


def test_what_is_not_finite_is_no_picture_after_a_further_pass_either():
    """Infinite values are clipped to white, which a second pass may well restore."""
    first = summarised(jnp.array([jnp.inf, 0.5]).reshape(1, 2, 1, 1, 1), None, at_once=1)
    second = summarised(jnp.array([0.25, 0.25]).reshape(1, 2, 1, 1, 1), None, at_once=1)
    found = merged(jnp.array([True, True]), second, first)
    np.testing.assert_array_equal(found.finite, [False, True])
    np.testing.assert_array_equal(found.passes, [1, 2])
    np.testing.assert_array_equal(found.restored.ravel(), [1, 0.25])
