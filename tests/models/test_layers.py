"""Building blocks of the UNet with a form of their own on CPUs: the same values, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.models.layers import join_channels


def assert_same(found, expected):
    np.testing.assert_array_equal(np.asarray(found, "float32"), np.asarray(expected, "float32"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_channels_are_joined_as_they_are(dtype):
    x, skip = (
        jax.random.normal(jax.random.key(width), (2, 3, 5, width), dtype) for width in (4, 7)
    )
    x = x.at[0, 0, 0].set(jnp.array([jnp.nan, jnp.inf, -0.0, 1e-40], dtype))
    joined, back = jax.vjp(jax.jit(join_channels), x, skip)
    assert joined.dtype == dtype
    assert_same(joined, jnp.concatenate([x, skip], axis=-1))
    for part, found in zip((x, skip), back(joined), strict=True):
        assert_same(found, part)
