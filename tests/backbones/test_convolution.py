"""3x3 convolutions: values and gradients, in every form, equal XLA's own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from tpgdiff_jax.backbones import xla_convolution
from tpgdiff_jax.backbones.convolution import Conv, Conv3x3, Dense, convolve
from tpgdiff_jax.backbones.xla_convolution import blocked_kernel_gradient

SMALL = [(2, 8, 8, 4, 6), (1, 5, 7, 3, 8), (3, 1, 1, 2, 2), (1, 1, 9, 5, 3), (1, 40, 40, 63, 8)]
BLOCKED = [  # batch, height, width, channels, features
    (1, 32, 32, 64, 64),
    (2, 33, 35, 64, 65),
    (1, 37, 41, 80, 64),  # a prime height: one row at a time
    (3, 64, 16, 64, 64),
    (1, 1, 1024, 64, 64),
]


def native(x, kernel):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(convolve, x, kernel, dy):
    y, vjp = jax.vjp(convolve, x, kernel)
    return y, *vjp(dy)


def operands(shape, dtype=jnp.float32, seed: int = 0):
    """Draw input, kernel and output gradient for (batch, height, width, channels, features)."""
    batch, height, width, channels, features = shape
    rng = np.random.default_rng(seed)
    shapes = (
        (batch, height, width, channels),
        (3, 3, channels, features),
        (batch, height, width, features),
    )
    return tuple(jnp.asarray(rng.standard_normal(s), dtype) for s in shapes)


@pytest.mark.parametrize("shape", SMALL + BLOCKED)
def test_value_and_both_gradients_equal_xlas(assert_near, shape):
    x, kernel, dy = operands(shape)
    found = value_and_gradients(convolve, x, kernel, dy)
    expected = value_and_gradients(native, x, kernel, dy)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == jnp.float32
        assert_near(ours, theirs, 1e-5)


@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 13),
    width=st.integers(1, 9),
    block=st.sampled_from([1, 8, 40, 10_000]),
)
def test_the_blocked_gradient_is_right_for_every_size_and_block(batch, height, width, block):
    x, _, dy = operands((batch, height, width, 3, 2))
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.stack(
        [
            np.tensordot(padded[:, i : i + height, j : j + width], dy, ((0, 1, 2), (0, 1, 2)))
            for i in range(3)
            for j in range(3)
        ]
    ).reshape(3, 3, 3, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xla_convolution, "_BLOCK_PIXELS", block)
        found = blocked_kernel_gradient(x, dy)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [*SMALL, (1, 31, 33, 64, 64), (1, 32, 32, 64, 63)])
def test_narrow_or_small_layers_keep_xlas_gradient(monkeypatch, shape):
    def refuse(x, dy):
        raise AssertionError("the blocked form was used")

    monkeypatch.setattr(xla_convolution, "blocked_kernel_gradient", refuse)
    x, _, dy = operands(shape)
    jax.eval_shape(xla_convolution.kernel_gradient, x, dy)


@pytest.mark.parametrize("shape", BLOCKED)
def test_wide_layers_at_high_resolution_use_the_blocked_form_on_cpus(monkeypatch, shape):
    def mark(x, dy):
        return jnp.full((3, 3, x.shape[-1], dy.shape[-1]), 7.0)

    monkeypatch.setattr(xla_convolution, "blocked_kernel_gradient", mark)
    x, _, dy = operands(shape)
    assert (xla_convolution.kernel_gradient(x, dy) == 7).all()


@pytest.mark.parametrize("shape", [(2, 8, 8, 4, 6), (2, 32, 32, 64, 64)])
def test_bfloat16_keeps_its_type_and_sums_in_float32(assert_near, shape):
    x, kernel, dy = operands(shape, jnp.bfloat16)
    found = value_and_gradients(convolve, x, kernel, dy)
    exact = value_and_gradients(native, *(a.astype(jnp.float32) for a in (x, kernel, dy)))
    for ours, reference in zip(found, exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        assert_near(ours.astype(jnp.float32), reference, 2**-8)  # one rounding at the end


def test_the_blocked_gradient_sums_its_blocks_in_float32(monkeypatch):
    """Of 63 blocks with 257 pixels each none fits bfloat16's eight bits; their sum does."""
    monkeypatch.setattr(xla_convolution, "_BLOCK_PIXELS", 257)
    ones = jnp.ones((1, 63, 257, 1), jnp.bfloat16)
    found = blocked_kernel_gradient(ones, ones)
    assert found.dtype == jnp.bfloat16
    assert found[1, 1, 0, 0] == jnp.bfloat16(63 * 257)
    assert found[1, 1, 0, 0] != jnp.bfloat16(63 * 256)


@pytest.mark.parametrize("shape", [(1, 6, 5, 3, 4), (1, 32, 32, 64, 64)])
def test_vmap_gives_each_example_its_own_gradient(assert_near, shape):
    parts = [operands(shape, seed=seed) for seed in range(3)]
    stacked = (jnp.stack(part) for part in zip(*parts, strict=True))
    together = jax.jit(jax.vmap(functools.partial(value_and_gradients, convolve)))(*stacked)
    for i, part in enumerate(parts):
        for ours, theirs in zip(together, value_and_gradients(native, *part), strict=True):
            assert_near(ours[i], theirs, 1e-5)


@pytest.mark.parametrize(
    ("sizes", "spec"),
    [
        ((8, 1), PartitionSpec("data")),
        ((2, 4), PartitionSpec("data", "spatial")),  # rows of one image on several devices
    ],
)
@pytest.mark.parametrize("shape", [(8, 8, 8, 4, 6), (8, 32, 32, 64, 64)])
def test_sharded_batches_give_the_same_gradients(assert_near, make_mesh, shape, sizes, spec):
    x, kernel, dy = operands(shape)
    expected = value_and_gradients(native, x, kernel, dy)
    mesh = make_mesh(data=sizes[0], spatial=sizes[1])
    images, whole = NamedSharding(mesh, spec), NamedSharding(mesh, PartitionSpec())
    found = value_and_gradients(
        convolve,
        jax.device_put(x, images),
        jax.device_put(kernel, whole),
        jax.device_put(dy, images),
    )
    assert len(found[0].sharding.device_set) == 8
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs, 1e-5)


# Pointwise layers.


# The layers.


@pytest.mark.parametrize("use_bias", [False, True])
def test_the_matrix_layer_equals_flaxs_with_the_same_parameters(assert_near, use_bias):
    x = jax.random.normal(jax.random.key(1), (2, 3, 6))
    ours, theirs = Dense(4, use_bias=use_bias), nn.Dense(4, use_bias=use_bias)
    params = ours.init(jax.random.key(0), x)["params"]
    reference = theirs.init(jax.random.key(0), x)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, reference)
    np.testing.assert_array_equal(params["kernel"], reference["kernel"])  # the same rule
    if use_bias:
        params["bias"] = jnp.arange(4.0)
    variables = {"params": params}
    assert_near(ours.apply(variables, x), theirs.apply(variables, x), 1e-6)


@pytest.mark.parametrize("use_bias", [False, True])
def test_the_layer_is_the_convolution_plus_its_bias(assert_near, use_bias):
    x, _, _ = operands((2, 6, 5, 3, 4))
    layer = Conv3x3(4, use_bias=use_bias)
    params = layer.init(jax.random.key(0), x)["params"]
    assert set(params) == ({"kernel", "bias"} if use_bias else {"kernel"})
    expected = native(x, params["kernel"])
    if use_bias:
        params["bias"] = jnp.arange(4.0)
        expected = expected + jnp.arange(4.0)
    assert_near(layer.apply({"params": params}, x), expected, 1e-6)


@pytest.mark.parametrize("layer", [Conv3x3, Dense])
def test_a_layer_that_starts_at_zero_answers_zero_but_can_learn(layer):
    x, _, dy = operands((2, 6, 5, 3, 4))
    layer = layer(4, use_bias=True, zero_init=True)
    params = layer.init(jax.random.key(0), x)["params"]
    y, vjp = jax.vjp(lambda params: layer.apply({"params": params}, x), params)
    np.testing.assert_array_equal(y, 0)
    (gradient,) = vjp(dy)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("layer", [Conv3x3, Dense])
def test_a_layer_computes_and_stores_in_the_types_asked_for(layer):
    x, _, _ = operands((1, 4, 4, 3, 4))
    layer = layer(4, use_bias=True, dtype=jnp.bfloat16, param_dtype=jnp.float16)
    variables = layer.init(jax.random.key(0), x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float16"}
    assert layer.apply(variables, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("exact", [True, False])
def test_an_exact_matrix_layer_rounds_nothing_of_its_values_and_gradients(exact):
    x = jax.random.normal(jax.random.key(1), (3, 40))
    params = Dense(7).init(jax.random.key(0), x)["params"]

    def answers(layer):
        value = jax.jit(lambda params: layer.apply({"params": params}, x).astype(jnp.float32))
        return value(params), jax.grad(lambda p: jnp.sum(value(p) ** 2))(params)["kernel"]

    rounded = Dense(7, exact=exact, dtype=jnp.bfloat16)
    for found, wanted in zip(answers(rounded), answers(Dense(7)), strict=True):
        assert (jnp.abs(found - wanted).max() < 1e-5 * jnp.abs(wanted).max()) == exact


@pytest.mark.parametrize("exact", [True, False])
def test_an_exact_input_keeps_what_bfloat16_would_lose_of_an_image(exact):
    # A bright ramp: bfloat16 tells every fourth of its levels apart.
    image = 0.75 + jnp.arange(64, dtype=jnp.float32).reshape(1, 8, 8, 1) / 1024
    differs = jnp.zeros((3, 3, 1, 2)).at[1, 1].set(1).at[1, 2].set(-1)
    layer = Conv3x3(2, exact_input=exact, dtype=jnp.bfloat16)
    steps = jax.jit(layer.apply)({"params": {"kernel": differs}}, image)[:, :, :-1]
    assert steps.dtype == jnp.bfloat16
    assert bool(jnp.allclose(steps.astype(jnp.float32), -1 / 1024)) == exact


@pytest.mark.parametrize(
    ("size", "stride", "padding", "other"),
    [
        (3, 1, None, "SAME"),
        (3, 2, "same", "SAME"),
        (3, 2, ((1, 1), (1, 1)), ((1, 1), (1, 1))),
        (4, 4, None, "VALID"),
        (5, 3, "same", "SAME"),
    ],
)
@pytest.mark.parametrize("shape", [(2, 16, 12, 3), (1, 13, 17, 3)])
def test_layers_are_those_of_flax(size, stride, padding, other, shape, assert_near):
    x = jax.random.normal(jax.random.key(0), shape)
    ours = Conv(5, use_bias=True, size=size, stride=stride, padding=padding)
    theirs = nn.Conv(5, (size, size), stride, other)
    variables = theirs.init(jax.random.key(1), x)
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(1), x)) == jax.tree.map(
        jnp.shape, variables
    )

    def answer(layer, variables, x):
        return jnp.sin(layer.apply(variables, x)).sum()

    assert_near(ours.apply(variables, x), theirs.apply(variables, x), 1e-5)
    found, expected = (jax.grad(answer, (1, 2))(layer, variables, x) for layer in (ours, theirs))
    for one, other_one in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_near(one, other_one, 1e-4)
