"""Matrix products: values and gradients, of one example and of many, equal the plain ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tpgdiff_jax.backbones.products import gram, pointwise
from tpgdiff_jax.backbones.xla_convolution import merged_matrix_gradient, native_matrix_gradient


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(product, x, other, dy):
    y, vjp = jax.vjp(product, x, other)
    return y, *vjp(dy)


LEADING = [(2, 6, 5), (7,), (3, 4), ()]


def matrix_operands(leading, dtype=jnp.float32, seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = ((*leading, 6), (6, 4), (*leading, 4))
    return tuple(jnp.asarray(rng.standard_normal(s), dtype) for s in shapes)


@pytest.mark.parametrize("leading", LEADING)
def test_pointwise_is_a_product_over_the_last_axis_with_its_gradients(assert_near, leading):
    x, kernel, dy = matrix_operands(leading)
    flat_x, flat_dy = (np.asarray(a, np.float64).reshape(-1, a.shape[-1]) for a in (x, dy))
    y, dx, dkernel = value_and_gradients(pointwise, x, kernel, dy)
    assert_near(y, (flat_x @ kernel).reshape(dy.shape), 1e-6)
    assert_near(dx, (flat_dy @ kernel.T).reshape(x.shape), 1e-6)
    assert_near(dkernel, flat_x.T @ flat_dy, 1e-6)
    for gradient in (native_matrix_gradient, merged_matrix_gradient):
        assert_near(gradient(x, dy), flat_x.T @ flat_dy, 1e-6)


def test_pointwise_in_bfloat16_keeps_its_type_and_sums_in_float32(assert_near):
    operands16 = matrix_operands((3, 64, 65), jnp.bfloat16)
    found = value_and_gradients(pointwise, *operands16)
    exact = value_and_gradients(jnp.dot, *(a.astype(jnp.float32) for a in operands16))
    for ours, reference in zip(found, exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        assert_near(ours.astype(jnp.float32), reference, 2**-8)


def test_pointwise_gradients_of_a_sharded_batch_are_the_same(assert_near, make_mesh):
    x, kernel, dy = matrix_operands((2, 8, 3))
    expected = value_and_gradients(jnp.dot, x, kernel, dy)
    rows = NamedSharding(make_mesh(data=2, spatial=4), PartitionSpec("data", "spatial"))
    whole = NamedSharding(rows.mesh, PartitionSpec())
    placed = (jax.device_put(a, s) for a, s in ((x, rows), (kernel, whole), (dy, rows)))
    found = value_and_gradients(pointwise, *placed)
    assert len(found[0].sharding.device_set) == 8
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs, 1e-5)


def plain_gram(x, y):
    return x.T @ y


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("columns", [(6, 4), (4, 9)])
def test_gram_multiplies_over_the_rows(assert_near, columns, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = (jax.random.normal(key, (37, c), dtype) for key, c in zip(keys, columns, strict=False))
    dproduct = jax.random.normal(keys[2], columns)
    found = value_and_gradients(gram, x, y, dproduct)
    assert [array.dtype for array in found] == [jnp.float32, dtype, dtype]
    wide = (array.astype(jnp.float32) for array in (x, y))
    expected = value_and_gradients(plain_gram, *wide, dproduct)
    bounds = (1e-6, 1e-6, 1e-6) if dtype == jnp.float32 else (1e-6, 2**-7, 2**-7)
    for ours, theirs, bound in zip(found, expected, bounds, strict=True):
        assert_near(ours.astype(jnp.float32), theirs, bound)


def test_gram_of_a_sharded_batch_is_the_same(assert_near, make_mesh):
    x, y = (jax.random.normal(jax.random.key(i), (4, 16, 5 + i)) for i in range(2))
    dproduct = jax.random.normal(jax.random.key(2), (4, 5, 6))
    expected = value_and_gradients(jax.vmap(plain_gram), x, y, dproduct)
    rows = NamedSharding(make_mesh(data=2, spatial=4), PartitionSpec("data", "spatial"))
    placed = (jax.device_put(array, rows) for array in (x, y))
    found = value_and_gradients(jax.vmap(gram), *placed, dproduct)
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs, 1e-5)
