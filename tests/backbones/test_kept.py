"""What gradients keep: on a CPU nothing but what they ask for."""

import jax
import jax.numpy as jnp
import pytest

from tpgdiff_jax.backbones import convolution
from tpgdiff_jax.backbones.kept import kept_alone
from tpgdiff_jax.models import layers


def of_convolutions(x):
    for _ in range(4):
        x = convolution.convolve(x, jnp.ones((1, 1, 8, 8)), padding=((0, 0), (0, 0)), silu=True)
    return x.astype(jnp.float32).sum()


def of_norms(x):
    for _ in range(4):
        x = jnp.sin(layers.scaled_unit_variance(x, jnp.ones(8), 1e-5).astype(jnp.bfloat16))
    return x.astype(jnp.float32).sum()


@pytest.mark.parametrize(("loss", "module"), [(of_convolutions, convolution), (of_norms, layers)])
def test_a_gradient_keeps_less_and_stays_the_same(monkeypatch, assert_near, loss, module):
    x = jax.random.normal(jax.random.key(0), (1, 64, 64, 8), jnp.bfloat16)

    def gradient():
        compiled = jax.jit(lambda x: jax.grad(loss)(x)).lower(x).compile()
        return compiled(x), compiled.memory_analysis().temp_size_in_bytes

    found, kept = gradient()
    monkeypatch.setattr(module, "kept_alone", lambda arrays: arrays)
    expected, kept_before = gradient()
    assert_near(found, expected, 0.01)  # fused otherwise, it is rounded otherwise
    assert kept < 0.9 * kept_before


def test_what_was_kept_is_handed_on_as_it_is():
    arrays = (jnp.arange(3.0), None, jnp.ones(2, jnp.bfloat16))
    found = jax.jit(kept_alone)(arrays)
    assert found[1] is None
    assert all((a == b).all() for a, b in zip(found[::2], arrays[::2], strict=True))
    batched = jax.vmap(kept_alone)(jnp.ones((4, 2)))
    assert batched.shape == (4, 2)
