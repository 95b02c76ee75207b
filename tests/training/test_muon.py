"""Muon by shapes gives the updates of optax's, with far fewer products."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from tpgdiff_jax.training import muon
from tpgdiff_jax.training.state import _is_decayed

SHAPES = {
    "stem": (7, 7, 3, 8),
    "high": (3, 3, 8, 8),
    "also_high": (3, 3, 8, 8),
    "wide": (4, 36),
    "high_dense": (36, 4),  # one group with `wide`
    "square": (8, 8),
}


def drawn(seed):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    layers = {
        name: {"kernel": jax.random.normal(key, shape), "bias": jnp.full(shape[-1], 0.1 * seed)}
        for (name, shape), key in zip(SHAPES.items(), keys, strict=True)
    }
    return layers | {"norm": {"scale": jnp.linspace(0.0, 1.0, 5) + seed}}


def optaxs(schedule, adam_schedule):
    def axes(path, leaf):
        if path[-1].key != "kernel":
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return optax.contrib.muon(
        schedule,
        adam_b1=0.9,
        adam_b2=0.99,
        adam_learning_rate=adam_schedule,
        weight_decay=0.1,
        weight_decay_mask=_is_decayed,
        muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(axes, params),
    )


def ours(schedule, adam_schedule):
    decay = {"weight_decay": 0.1, "mask": _is_decayed}
    return muon.muon(schedule, adam_schedule, b1=0.9, b2=0.99, **decay)


@pytest.mark.parametrize("form", ["_one_by_one", "_by_shape"])
def test_three_steps_equal_those_of_optax_and_so_does_the_state(form, monkeypatch):
    monkeypatch.setattr(muon, "_one_by_one", getattr(muon, form))  # what a CPU chooses
    rates = optax.linear_schedule(0.1, 0.2, 3), optax.linear_schedule(0.01, 0.02, 3)
    params, steps = drawn(0), [drawn(seed) for seed in (1, 2, 3)]

    def run(make):
        optimizer, current = make(*rates), params
        state = optimizer.init(current)
        for gradient in steps:
            updates, state = optimizer.update(gradient, state, current)
            current = optax.apply_updates(current, updates)
        return current, state

    (found, state), (expected, its_state) = run(ours), run(optaxs)
    assert jax.tree.structure(state) == jax.tree.structure(its_state)
    for one, other in zip(
        jax.tree.leaves((found, state)), jax.tree.leaves((expected, its_state)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def test_matrices_of_one_shape_share_their_products():
    kernels = {name: layer["kernel"] for name, layer in drawn(0).items() if "kernel" in layer}

    def products(form):
        text = str(jax.make_jaxpr(form)(jax.tree.leaves(kernels)))
        return text.count("dot_general")

    assert products(muon._one_by_one) == 15 * len(SHAPES)
    assert products(muon._by_shape) == 15 * 4


def test_a_matrix_that_is_not_finite_spoils_no_other_of_its_shape():
    kernels = {name: layer["kernel"] for name, layer in drawn(0).items() if "kernel" in layer}
    kernels["high"] = kernels["high"].at[0, 0, 0, 0].set(jnp.nan)
    found = muon._by_shape(list(kernels.values()))
    finite = {n for n, k in zip(kernels, found, strict=True) if jnp.isfinite(k).all()}
    assert finite == set(SHAPES) - {"high"}


def test_matrices_of_two_types_keep_theirs_and_no_gradient_is_no_update():
    square = drawn(0)["square"]["kernel"]
    found = muon._by_shape([square.astype(jnp.bfloat16), square, 0 * square])
    assert [each.dtype for each in found] == [jnp.bfloat16, jnp.float32, jnp.float32]
    assert not found[2].any()


def test_what_is_given_back_is_nearly_orthogonal():
    found = muon.orthogonalised({"a": drawn(0)["square"]["kernel"]})["a"]
    values = np.linalg.svd(found, compute_uv=False)
    assert values.min() > 0.3
    assert values.max() < 1.3
