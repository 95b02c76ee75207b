"""The lean UNet: shapes, priors, laws of its layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.models.lean import LeanUNet, SemanticShift, channels_to_pixels, pixels_to_channels
from tpgdiff_jax.priors import BRANCHES, Priors
from tpgdiff_jax.priors.semantic import unit_length

lean_unet = functools.partial(
    LeanUNet,
    width=8,
    multipliers=(1, 2),
    blocks=(1, 2),
    middle_blocks=1,
    prior_dim=12,
    structure_dim=10,
)


def inputs(height=8, width=8, batch=2):
    rng = np.random.default_rng(0)
    mu = rng.random((batch, height, width, 3), dtype=np.float32)
    x_t = mu + 0.1 * rng.standard_normal(mu.shape, dtype=np.float32)
    return x_t, mu, np.array([90, 10][:batch], np.int32)


def priors(batch=2):
    rng = np.random.default_rng(1)
    shapes = {"degradation": (batch, 12), "semantic": (batch, 12), "structure": (batch, 4, 10)}
    return Priors(**{k: rng.standard_normal(s, dtype=np.float32) for k, s in shapes.items()})


@pytest.fixture(scope="module")
def lean(random_params):
    model = lean_unet()
    return model, random_params(model, *inputs()), jax.jit(model.apply)


def test_bfloat16_answers_with_float32s_image_level(lean):
    model, params, apply = lean
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params)
    narrow = jax.jit(model.clone(dtype=jnp.bfloat16).apply)
    both = [run({"params": params}, *inputs(32, 32), priors()) for run in (apply, narrow)]
    apart = np.asarray(both[1] - both[0])
    assert 1e-4 < np.abs(apart).max() / np.abs(both[0]).max() < 3e-2  # it was used
    rounded = both[1].astype(jnp.bfloat16).astype(jnp.float32)
    assert (rounded != both[1]).mean() > 0.9  # the answer itself is not
    # What is left is noise from pixel to pixel, not an error of the whole image.
    assert np.abs(apart.mean(axis=(1, 2))).max() < 0.3 * apart.std()


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 3)])
def test_any_size_comes_back_as_float32(lean, size):
    _, params, apply = lean
    out = apply({"params": params}, *inputs(*size), priors())
    assert out.shape == (2, *size, 3)
    assert out.dtype == jnp.float32
    assert jnp.isfinite(out).all()


@pytest.mark.parametrize("name", BRANCHES)
def test_each_prior_changes_the_answer_and_may_be_withheld(lean, name):
    _, params, apply = lean
    given = priors()
    whole = apply({"params": params}, *inputs(), given)
    without = apply({"params": params}, *inputs(), given.replace(**{name: None}))
    assert np.abs(whole - without).max() > 1e-4
    present = np.ones((2, 3), np.float32)
    present[0, BRANCHES.index(name)] = 0
    withheld = apply({"params": params}, *inputs(), given.replace(present=present))
    np.testing.assert_allclose(withheld[0], without[0], atol=1e-5)
    np.testing.assert_allclose(withheld[1], whole[1], atol=1e-5)


def test_a_prior_it_was_built_without_is_refused(random_params):
    model = lean_unet(use_semantic=False)
    with pytest.raises(ValueError, match="use_semantic=False"):
        jax.eval_shape(model.init, jax.random.key(0), *inputs(), priors())


def test_levels_and_blocks_must_agree():
    with pytest.raises(ValueError, match=r"model\.blocks=\(1,\) has 1 numbers"):
        jax.eval_shape(lean_unet(blocks=(1,)).init, jax.random.key(0), *inputs())


def test_an_untrained_network_answers_zero_and_can_learn():
    model = lean_unet(identity_init=True)
    params = model.init(jax.random.key(0), *inputs())
    out = model.apply(params, *inputs(), priors())
    np.testing.assert_array_equal(out, 0)
    gradient = jax.grad(lambda p: ((model.apply(p, *inputs(), priors()) - 1) ** 2).mean())(params)
    assert np.abs(gradient["params"]["final_conv"]["kernel"]).max() > 0


def test_recomputing_blocks_changes_no_gradient(lean):
    model, params, _ = lean

    def gradient(model):
        return jax.jit(
            jax.grad(lambda p: (model.apply({"params": p}, *inputs(), priors()) ** 2).mean())
        )(params)

    kept, again = gradient(model), gradient(model.clone(remat="blocks"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), kept, again)


def test_the_semantic_shift_is_cross_attention_to_one_token(random_params):
    """With one token the softmax is 1: softmax(q k^T) v = v for every query."""
    x, semantic = np.ones((2, 4, 4, 6), np.float32), priors().semantic
    shift = SemanticShift()
    params = random_params(shift, x, semantic, 1.0)
    token = unit_length(semantic)[:, None, :]
    rng = np.random.default_rng(2)
    query = rng.standard_normal((2, 16, 5), dtype=np.float32)
    key = token @ rng.standard_normal((12, 5), dtype=np.float32)
    weights = jax.nn.softmax(query @ key.swapaxes(1, 2), axis=-1)
    attended = weights @ (token @ params["value"]["kernel"])
    expected = x + attended.reshape(2, 4, 4, 6)
    np.testing.assert_allclose(shift.apply({"params": params}, x, semantic, 1.0), expected, 1e-5)


def test_pixels_move_into_channels_and_back():
    x = np.arange(2 * 4 * 6 * 8).reshape(2, 4, 6, 8)
    packed = pixels_to_channels(x)
    assert packed.shape == (2, 2, 3, 32)
    np.testing.assert_array_equal(packed[0, 0, 0].reshape(2, 2, 8), x[0, :2, :2])
    np.testing.assert_array_equal(channels_to_pixels(packed), x)
