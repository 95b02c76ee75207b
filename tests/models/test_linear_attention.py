"""Linear attention against a plain loop over heads; large images in turns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.models import linear_attention as module
from tpgdiff_jax.models.linear_attention import LinearAttention


def linear_attention(q, k, v, heads):
    """Attend with given queries, keys and values: pixels that hold all three side by side."""
    hidden = q.shape[-1]
    pick_q, pick_k, pick_v = np.split(np.eye(3 * hidden, dtype=np.float32), 3, axis=1)
    projections = [lambda x, pick=pick: x @ pick.astype(x.dtype) for pick in (pick_q, pick_k)]
    small = (jnp.asarray(pick_v), jnp.eye(hidden))
    return module.linear_attention(jnp.concatenate([q, k, v], -1), projections, small, heads)


def queries(batch: int, pixels: int, hidden: int, scale: float = 1.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(scale * rng.standard_normal((batch, pixels, hidden)), jnp.float32)
        for _ in range(3)
    )


def softmax(x, axis, xp=np):
    shifted = xp.exp(x - x.max(axis=axis, keepdims=True))
    return shifted / shifted.sum(axis=axis, keepdims=True)


def plain_attention(q, k, v, heads, xp=np):
    """Write the definition out, one head after the other."""
    pixels, width = q.shape[1], q.shape[2] // heads
    outs = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        q_soft = softmax(q[..., part], 2, xp) * width**-0.5
        k_soft = softmax(k[..., part], 1, xp)
        context = xp.einsum("bnd,bne->bde", k_soft, v[..., part] / pixels)
        outs.append(xp.einsum("bnd,bde->bne", q_soft, context))
    return xp.concatenate(outs, axis=-1)


@pytest.mark.parametrize(
    ("heads", "batch", "pixels", "hidden"), [(4, 2, 35, 32), (1, 1, 12, 8), (4, 3, 1, 16)]
)
def test_linear_attention_is_the_sum_over_heads_of_its_definition(
    assert_near, heads, batch, pixels, hidden
):
    q, k, v = queries(batch, pixels, hidden)
    expected = plain_attention(*(np.asarray(a, np.float64) for a in (q, k, v)), heads)
    assert_near(linear_attention(q, k, v, heads), expected, 1e-5)


def test_linear_attentions_gradients_equal_those_of_its_definition(assert_near):
    inputs = queries(2, 35, 32)
    weights = queries(2, 35, 32, seed=1)[0]

    def loss(attend, inputs):
        return (attend(*inputs, 4) * weights).sum()

    plain = functools.partial(plain_attention, xp=jnp)
    found = jax.jit(jax.grad(functools.partial(loss, linear_attention)))(inputs)
    expected = jax.jit(jax.grad(functools.partial(loss, plain)))(inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert_near(ours, theirs, 1e-4)


def test_linear_attention_survives_large_logits(assert_near):
    q, k, v = queries(1, 20, 16, scale=200.0)
    expected = plain_attention(*(np.asarray(a, np.float64) for a in (q, k, v)), 4)
    assert_near(linear_attention(q, k, v, 4), expected, 1e-4)
    gradients = jax.jit(jax.grad(lambda k: linear_attention(q, k, v, 4).sum()))(k)
    assert np.isfinite(gradients).all()


def test_linear_attention_in_bfloat16_keeps_float32_statistics(assert_near):
    rounded = tuple(a.astype(jnp.bfloat16) for a in queries(1, 4096, 32))
    found = linear_attention(*rounded, 4)
    assert found.dtype == jnp.bfloat16
    expected = plain_attention(*(np.asarray(a, np.float64) for a in rounded), 4)
    assert_near(found.astype(jnp.float32), expected, 0.02)


def test_heads_do_not_mix():
    q, k, v = queries(1, 10, 16)
    before = linear_attention(q, k, v, 4)
    after = linear_attention(q.at[..., :4].add(1), k.at[..., :4].add(q[..., :4]), v + 0, 4)
    np.testing.assert_array_equal(after[..., 4:], before[..., 4:])
    assert np.abs(after[..., :4] - before[..., :4]).max() > 1e-5


def test_the_linear_layer_normalises_its_answer_at_each_pixel(random_params):
    x = queries(2, 12, 8)[0].reshape(2, 3, 4, 8)
    layer = LinearAttention(heads=2, head_dim=4)
    params = random_params(layer, x)
    params["norm"]["scale"] = jnp.ones(8)
    params["out"]["bias"] = 10 * params["out"]["bias"]  # linear attention alone is tiny
    y = np.asarray(jax.jit(layer.apply)({"params": params}, x))
    assert y.shape == x.shape
    np.testing.assert_allclose(y.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=-1), 1, atol=1e-2)


# Widths with a block of one column, of several, and a prime one.
@pytest.mark.parametrize(("height", "width", "most"), [(6, 12, 18), (5, 8, 1), (3, 7, 10)])
def test_a_large_image_is_attended_to_in_turns(
    monkeypatch, random_params, assert_near, height, width, most
):
    x = jax.random.normal(jax.random.key(0), (2, height, width, 8))
    layer = LinearAttention(heads=2, head_dim=4)
    params = random_params(layer, x)

    def loss(params, x):
        out = layer.apply({"params": params}, x)
        return (out**2 * jnp.arange(8)).sum(), out

    def answer():
        grads, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)
        return out, grads

    whole = answer()
    monkeypatch.setattr(module, "_MAX_PIXELS", most)
    jax.clear_caches()
    text = jax.jit(loss).lower(params, x).as_text()
    assert "while" in text
    jax.tree.map(lambda a, b: assert_near(a, b, 1e-5), answer(), whole)


def test_turns_in_bfloat16_answer_in_bfloat16(monkeypatch, random_params, assert_near):
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 8))
    layer = LinearAttention(heads=2, head_dim=4, dtype=jnp.bfloat16)
    params = random_params(layer, x)
    expected = LinearAttention(heads=2, head_dim=4).apply({"params": params}, x)
    monkeypatch.setattr(module, "_MAX_PIXELS", 16)
    found = layer.apply({"params": params}, x.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    assert_near(found.astype(jnp.float32), expected, 0.05)


def test_a_whole_large_image_needs_little_memory():
    layer = LinearAttention()
    x = jax.ShapeDtypeStruct((1, 1088, 1920, 64), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    compiled = jax.jit(layer.apply).lower(params, x).compile()
    # Queries, keys and values would be 3 GiB; the image and its answer are 0.5 GiB each.
    assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * 2**30
