"""Frozen networks: given weights, no gradient, no parameters of their owner."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.backbones.frozen import apply_frozen


class Owner(nn.Module):
    """A trained layer on top of a frozen network."""

    network: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="head")(apply_frozen(self, "eye", self.network, x))


class Outer(nn.Module):
    inner: Owner

    def __call__(self, x):
        return self.inner(x)


class Pair(nn.Module):
    """A network with two answers, one of them of whole numbers."""

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(4)(x)
        return y, y.argmax(axis=-1)


@pytest.fixture
def system():
    """A nested owner, its variables and an input."""
    model = Outer(Owner(nn.Dense(3)))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((5, 4)), jnp.float32)
    params = model.init(jax.random.key(0), x)["params"]
    eye = {"kernel": rng.standard_normal((4, 3)), "bias": rng.standard_normal(3)}
    frozen = {"inner": {"eye": jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), eye)}}
    return model, params, frozen, x


def test_initialising_needs_no_weights_and_makes_none():
    model = Outer(Owner(nn.Dense(3)))
    variables = model.init(jax.random.key(0), jnp.zeros((1, 4)))
    assert variables.keys() == {"params"}
    shapes = jax.tree.map(jnp.shape, variables["params"])
    assert shapes == {"inner": {"head": {"bias": (2,), "kernel": (3, 2)}}}


def test_the_given_weights_are_used(system):
    model, params, frozen, x = system
    eye, head = frozen["inner"]["eye"], params["inner"]["head"]
    seen = x @ eye["kernel"] + eye["bias"]
    answer = model.apply({"params": params, "frozen": frozen}, x)
    np.testing.assert_allclose(answer, seen @ head["kernel"] + head["bias"], rtol=1e-5)


def test_no_gradient_enters_weights_or_passes_through_them(system):
    model, params, frozen, x = system

    def total(params, frozen, x):
        return jnp.square(model.apply({"params": params, "frozen": frozen}, x)).sum()

    trained, given, seen = jax.grad(total, argnums=(0, 1, 2))(params, frozen, x)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves((given, seen)))
    assert all((leaf != 0).all() for leaf in jax.tree.leaves(trained))


def test_missing_weights_are_named_by_their_whole_path(system):
    model, params, frozen, x = system
    with pytest.raises(ValueError, match=r"frozen/inner/eye \(Dense\) are missing"):
        model.apply({"params": params}, x)
    with pytest.raises(ValueError, match=r"frozen/inner/eye \(Dense\) are missing"):
        model.apply({"params": params, "frozen": {"inner": {"ear": frozen["inner"]["eye"]}}}, x)
    with pytest.raises(ValueError, match=r"frozen weights frozen/eye \(Dense\)"):
        Owner(nn.Dense(3)).apply({"params": params["inner"]}, x)


def test_answers_of_any_structure_are_stood_in_for_while_initialising():
    class Reader(nn.Module):
        @nn.compact
        def __call__(self, x):
            features, number = apply_frozen(self, "pair", Pair(), x)
            assert (features.shape, number.shape) == ((2, 4), (2,))
            assert (features.dtype, number.dtype) == (jnp.float32, jnp.int32)
            return nn.Dense(1)(features) + number[:, None]

    shapes = jax.eval_shape(Reader().init, jax.random.key(0), jnp.zeros((2, 3)))
    assert shapes.keys() == {"params"}
