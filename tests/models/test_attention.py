"""The transformer at initialisation and its context."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.models.attention import SpatialTransformer
from tpgdiff_jax.models.linear_attention import LinearAttention
from tpgdiff_jax.models.unet import PreNormAttention


def transformer(channels: int = 64):
    layer = SpatialTransformer(head_dim=32, context_dim=12)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3, 4, channels)), jnp.float32)
    context = jnp.asarray(rng.standard_normal((2, 1, 12)), jnp.float32)
    return layer, x, context


def test_the_transformer_starts_as_the_identity():
    layer, x, context = transformer()
    key = jax.random.key(0, impl="unsafe_rbg")  # compiles fast
    out, variables = jax.jit(layer.init_with_output)(key, x)
    np.testing.assert_array_equal(out, x)
    np.testing.assert_array_equal(jax.jit(layer.apply)(variables, x, context), x)


def test_the_transformer_has_its_cross_attention_also_when_built_without_context():
    layer, x, context = transformer()
    init = functools.partial(jax.eval_shape, layer.init, jax.random.key(0), x)
    assert init() == init(context)
    assert init()["params"]["cross_attention"]["k"]["kernel"].shape == (12, 64)


def test_a_trained_transformer_listens_to_its_context(random_params):
    layer, x, context = transformer()
    variables = {"params": random_params(layer, x)}
    apply = jax.jit(layer.apply)
    without = apply(variables, x)
    first = apply(variables, x, context)
    other = apply(variables, x, -context)
    assert np.abs(first - without).max() > 0.01
    assert np.abs(first - other).max() > 0.01


def test_a_transformer_does_not_know_where_a_pixel_is(random_params, assert_near):
    """Attention, norms and projections carry no positions: moving pixels moves the answer."""
    layer, x, context = transformer()
    variables = {"params": random_params(layer, x)}
    order = np.random.default_rng(1).permutation(12)

    def shuffle(image):
        return image.reshape(2, 12, 64)[:, order].reshape(image.shape)

    apply = jax.jit(layer.apply)
    moved = apply(variables, shuffle(x), context)
    assert_near(moved, shuffle(apply(variables, x, context)), 1e-5)


def test_self_attention_looks_at_every_pixel(random_params):
    layer, x, context = transformer()
    variables = {"params": random_params(layer, x)}
    change = jax.jit(jax.grad(lambda x: layer.apply(variables, x, context)[0, 0, 0, 0]))(x)
    assert (np.abs(change[0]).max(axis=-1) > 1e-6).all()
    np.testing.assert_array_equal(change[1], 0)  # another example


@pytest.mark.parametrize("channels", [48, 16])
def test_a_width_that_heads_do_not_divide_is_named(channels):
    layer, x, _ = transformer(channels)
    with pytest.raises(ValueError, match=f"model.width: {channels} channels .* head width 32"):
        jax.eval_shape(layer.init, jax.random.key(0), x)


@pytest.mark.parametrize("full", [False, True])
def test_residual_attention_adds_what_attention_makes_of_the_normed_input(
    random_params, assert_near, full
):
    x = jnp.asarray(3 + np.random.default_rng(0).standard_normal((1, 2, 3, 32)), jnp.float32)
    layer = PreNormAttention(full, heads=2, head_dim=16, context_dim=12)
    params = random_params(layer, x)
    deviation = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(deviation).mean(axis=-1, keepdims=True)
    normed = deviation / np.sqrt(variance + 1e-5) * params["norm"]["scale"]
    inner = SpatialTransformer(16, 12) if full else LinearAttention(2, 16)
    expected = x + jax.jit(inner.apply)({"params": params["attention"]}, normed)
    assert_near(jax.jit(layer.apply)({"params": params}, x), expected, 1e-5)
    low = PreNormAttention(full, heads=2, head_dim=16, context_dim=12, dtype=jnp.bfloat16)
    out = jax.eval_shape(low.apply, {"params": params}, x.astype(jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
