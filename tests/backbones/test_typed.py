"""Modules with a type of their computation and one of their parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.typed import TypedModule


class Pair(TypedModule):
    """Two layers; a field without default may follow the base's fields, which go by name."""

    features: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.features, name="first", **self.dtypes)(x)
        return nn.Dense(1, name="second", **self.dtypes)(x)


def test_inner_modules_take_both_types_and_the_tree_has_their_names_alone():
    model = Pair(3, dtype=jnp.bfloat16, param_dtype=jnp.float16)
    assert model.dtypes == {"dtype": jnp.bfloat16, "param_dtype": jnp.float16}
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, 2)))
    assert out.dtype == jnp.bfloat16
    assert variables["params"].keys() == {"first", "second"}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float16)}


def test_both_types_are_float32_unless_said_otherwise():
    assert Pair(3) == Pair(features=3, dtype=jnp.float32, param_dtype=jnp.float32)
