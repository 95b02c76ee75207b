"""The UNet: golden parity, optional priors, sizes, types, gradients, sharding."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from tpgdiff_jax.models.unet import ConditionalUNet, pad_to_multiple
from tpgdiff_jax.priors import BRANCHES, Priors

NF64_PARAMETERS = 49_736_451

# Two levels instead of four, every kind of layer: what most properties need, compiled quickly.
small_unet = functools.partial(
    ConditionalUNet, width=32, multipliers=(1, 1), prior_dim=12, structure_dim=10
)
# No transformer, so that it may be narrower still.
narrow_unet = functools.partial(
    ConditionalUNet, width=8, multipliers=(1, 2), use_semantic=False, prior_dim=12, structure_dim=10
)


def inputs(batch: int = 2, height: int = 8, width: int = 8, seed: int = 0):
    """Draw states, degraded images and times."""
    rng = np.random.default_rng(seed)
    mu = rng.random((batch, height, width, 3), dtype=np.float32)
    x_t = mu + 0.2 * rng.standard_normal(mu.shape, dtype=np.float32)
    return x_t, mu, np.linspace(90, 10, batch).round().astype(np.int32)


def small_priors(batch: int = 2, seed: int = 1, fields=BRANCHES) -> Priors:
    rng = np.random.default_rng(seed)
    shapes = {"degradation": (batch, 12), "semantic": (batch, 12), "structure": (batch, 4, 10)}
    drawn = {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}
    return Priors(**{name: drawn[name] for name in fields})


@pytest.fixture(scope="module")
def small(random_params):
    """A small UNet with random parameters: (model, params, jitted apply)."""
    model = small_unet()
    return model, random_params(model, *inputs()), jax.jit(model.apply)


@pytest.fixture(scope="module")
def narrow(random_params):
    """The same for a narrow UNet without semantics."""
    model = narrow_unet()
    return model, random_params(model, *inputs()), jax.jit(model.apply)


# The released program's outputs.


@pytest.mark.parametrize("left_out", [None, "degradation", "structure"])
@pytest.mark.parametrize("name", ["unet_nf32", "unet_nf64"])
def test_outputs_equal_the_released_ones(
    golden, golden_unet, golden_priors, assert_near, name, left_out
):
    arrays = golden(name)
    _, params, apply = golden_unet(name)
    priors = golden_priors(arrays)
    if left_out:
        priors = priors.replace(**{left_out: None})
    out = apply({"params": params}, arrays["xt"], arrays["cond"], arrays["t"], priors)
    assert_near(out, arrays[f"out_no_{left_out}" if left_out else "out"], 1e-4)


def test_outputs_without_any_prior_equal_the_released_ones(golden, golden_unet, assert_near):
    arrays = golden("unet_nf32_noprior")
    _, params, apply = golden_unet("unet_nf32_noprior")
    out = apply({"params": params}, arrays["xt"], arrays["cond"], arrays["t"])
    assert_near(out, arrays["out"], 1e-4)


def test_bfloat16_stays_close_to_the_released_outputs(golden, golden_unet, assert_near):
    arrays = golden("unet_nf32_noprior")
    model, params, _ = golden_unet("unet_nf32_noprior")
    low = model.clone(dtype=jnp.bfloat16)
    out = jax.jit(low.apply)({"params": params}, arrays["xt"], arrays["cond"], arrays["t"])
    assert out.dtype == jnp.float32
    assert_near(out, arrays["out"], 0.05)
    assert np.abs(out - arrays["out"]).max() > 1e-4 * np.abs(arrays["out"]).max()  # it was used


# Parameters.


def shapes_of(model, *arguments):
    """Return the parameters' abstract shapes, path -> ShapeDtypeStruct."""
    arguments = arguments or inputs()
    variables = jax.eval_shape(model.init, jax.random.key(0), *arguments)
    return flatten_dict(variables["params"])


def test_the_released_width_has_the_released_number_of_parameters(golden_weights):
    assert sum(w.size for w in golden_weights("unet_nf64").values()) == NF64_PARAMETERS
    ours = shapes_of(ConditionalUNet(), *inputs(1, 16, 16))
    assert sum(math.prod(leaf.shape) for leaf in ours.values()) == NF64_PARAMETERS


@pytest.mark.parametrize(
    "fields", [f for n in range(4) for f in itertools.combinations(BRANCHES, n)]
)
def test_each_prior_is_optional_when_the_network_is_built(fields):
    model = small_unet(**{f"use_{name}": name in fields for name in BRANCHES})
    names = {"/".join(path) for path in shapes_of(model)}
    assert any("degradation" in name for name in names) == ("degradation" in fields)
    assert any("cross_attention" in name for name in names) == ("semantic" in fields)
    assert any("film" in name for name in names) == ("structure" in fields)
    out = jax.eval_shape(
        model.init_with_output, jax.random.key(0), *inputs(), small_priors(fields=fields)
    )[0]
    assert out.shape == (2, 8, 8, 3)


@pytest.mark.parametrize("field", BRANCHES)
def test_a_prior_the_network_was_built_without_is_refused(field):
    model = small_unet(**{f"use_{field}": False})
    with pytest.raises(ValueError, match=rf"priors\.{field} is given.*use_{field}=False"):
        jax.eval_shape(model.init, jax.random.key(0), *inputs(), small_priors(fields=(field,)))


def test_parameters_do_not_depend_on_the_priors_given_at_initialisation():
    assert shapes_of(small_unet()) == shapes_of(small_unet(), *inputs(), small_priors())


@pytest.mark.parametrize(
    ("kind", "compute"), [(jnp.float32, jnp.bfloat16), (jnp.bfloat16, jnp.float32)]
)
def test_parameters_have_the_type_asked_for_and_outputs_are_float32(kind, compute):
    model = small_unet(param_dtype=kind, dtype=compute)
    assert {leaf.dtype for leaf in shapes_of(model).values()} == {jnp.dtype(kind)}
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), *inputs(), small_priors())
    assert out.dtype == jnp.float32


@pytest.mark.parametrize("zero", [False, True])
def test_the_last_convolution_answers_zero_only_if_asked_to(narrow, zero):
    _, params, apply = narrow
    model = narrow_unet(identity_init=zero)

    @jax.jit
    def first_weights(key):
        return model.init(key, *inputs())["params"]["final_conv"]

    params = params | {"final_conv": first_weights(jax.random.key(0))}
    assert bool((apply({"params": params}, *inputs()) == 0).all()) == zero


def test_a_width_the_transformers_cannot_split_is_named():
    with pytest.raises(ValueError, match=r"model\.width: 24 channels"):
        shapes_of(small_unet(width=24))


# Priors at the call.


def test_each_prior_changes_the_answer_and_may_be_left_out(small):
    _, params, apply = small
    variables, images = {"params": params}, inputs()
    everything = apply(variables, *images, small_priors())
    for field in BRANCHES:
        without = apply(variables, *images, small_priors().replace(**{field: None}))
        other = small_priors().replace(**{field: getattr(small_priors(seed=9), field)})
        assert np.abs(without - everything).max() > 1e-3 * np.abs(everything).max()
        changed = apply(variables, *images, other)
        assert np.abs(changed - everything).max() > 1e-4 * np.abs(everything).max()


def test_a_prior_withheld_from_one_image_is_as_if_it_were_none(small, assert_near):
    _, params, apply = small
    variables, images, priors = {"params": params}, inputs(), small_priors()
    count = len(images[0])
    assert count > 1
    everything = apply(variables, *images, priors)
    for column, field in enumerate(BRANCHES):
        present = np.ones((count, 3), np.float32)
        present[0, column] = 0
        found = apply(variables, *images, priors.replace(present=present))
        without = apply(variables, *images, priors.replace(**{field: None}))
        assert_near(found[:1], without[:1], 1e-5)
        assert_near(found[1:], everything[1:], 1e-5)


@pytest.mark.parametrize("remat", ["attention", "blocks"])
def test_computing_again_instead_of_keeping_changes_no_gradient(small, assert_near, remat):
    model, params, _ = small
    priors = small_priors()

    def gradient(model):
        loss = lambda p: jnp.square(model.apply({"params": p}, *inputs(), priors)).mean()  # noqa: E731
        return jax.jit(jax.grad(loss))(params)

    again = small_unet(remat=remat)
    assert jax.tree.structure(shapes_of(again)) == jax.tree.structure(shapes_of(model))
    for expected, found in zip(
        *map(jax.tree.leaves, (gradient(model), gradient(again))), strict=True
    ):
        if np.abs(expected).max() > 0:
            assert_near(found, expected, 1e-4)


def test_no_priors_at_all_are_the_same_as_empty_ones(narrow):
    _, params, apply = narrow
    none = apply({"params": params}, *inputs())
    np.testing.assert_array_equal(none, apply({"params": params}, *inputs(), Priors()))


def test_a_prior_left_out_equals_a_network_built_without_it(narrow, assert_near):
    _, params, apply = narrow
    expected = apply({"params": params}, *inputs())
    bare = narrow_unet(use_degradation=False, use_structure=False)
    kept = {k: v for k, v in params.items() if "film" not in k and k != "degradation"}
    assert len(kept) < len(params)
    assert_near(jax.jit(bare.apply)({"params": kept}, *inputs()), expected, 1e-5)


def test_only_the_direction_of_the_semantic_prior_counts(small, assert_near):
    _, params, apply = small
    priors = small_priors()
    expected = apply({"params": params}, *inputs(), priors)
    scaled = priors.replace(semantic=7 * priors.semantic)
    assert_near(apply({"params": params}, *inputs(), scaled), expected, 1e-5)


def test_structure_tokens_enter_by_their_mean(small, assert_near):
    _, params, apply = small
    priors = small_priors()
    expected = apply({"params": params}, *inputs(), priors)
    mean = priors.structure.mean(axis=1, keepdims=True)
    repeated = priors.replace(structure=np.repeat(mean, 4, axis=1))
    assert_near(apply({"params": params}, *inputs(), repeated), expected, 1e-5)


# Inputs.


def test_whole_times_may_be_given_as_floats_and_matter(narrow):
    _, params, apply = narrow
    x_t, mu, t = inputs()
    expected = apply({"params": params}, x_t, mu, t)
    np.testing.assert_array_equal(
        apply({"params": params}, x_t, mu, t.astype(np.float32)), expected
    )
    later = apply({"params": params}, x_t, mu, t.astype(np.float32) + 0.5)
    assert np.abs(later - expected).max() > 1e-4


def test_examples_of_a_batch_do_not_meet(small, assert_near):
    _, params, apply = small
    batch, other = ((*inputs(seed=i), small_priors(seed=i)) for i in (0, 5))
    before = apply({"params": params}, *batch)
    swapped = apply({"params": params}, *jax.tree.map(lambda leaf: leaf[::-1], batch))
    assert_near(swapped, before[::-1], 1e-5)
    # A new second example, the first one left as it is.
    mixed = jax.tree.map(lambda a, b: np.stack([a[0], b[1]]), batch, other)
    after = apply({"params": params}, *mixed)
    assert_near(after[0], before[0], 1e-5)
    assert np.abs(after[1] - before[1]).max() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_any_size_works_and_equals_the_padded_image_cut_back(narrow, assert_near, size):
    _, params, apply = narrow
    x_t, mu, t = inputs(2, *size)
    out = apply({"params": params}, x_t, mu, t)
    assert out.shape == x_t.shape
    padded = apply({"params": params}, pad_to_multiple(x_t, 4), pad_to_multiple(mu, 4), t)
    assert_near(out, padded[:, : size[0], : size[1]], 1e-5)


def test_four_levels_take_a_single_pixel(golden_unet):
    _, params, apply = golden_unet("unet_nf32_noprior")
    out = apply({"params": params}, *inputs(1, 1, 1))
    assert out.shape == (1, 1, 1, 3)
    assert np.isfinite(out).all()


@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    multiple=st.sampled_from([1, 4, 16]),
)
def test_padding_reaches_the_multiple_by_reflection(height, width, multiple):
    x = np.random.default_rng(0).random((2, height, width, 1), dtype=np.float32)
    out = np.asarray(pad_to_multiple(jnp.asarray(x), multiple))
    for axis in (1, 2):
        assert out.shape[axis] % multiple == 0
        assert 0 <= out.shape[axis] - x.shape[axis] < multiple
    np.testing.assert_array_equal(out[:, :height, :width], x)
    extra = [(0, n - m) for n, m in zip(out.shape, x.shape, strict=True)]
    if extra[1][1] < height and extra[2][1] < width:
        np.testing.assert_array_equal(out, np.pad(x, extra, mode="reflect"))
    assert set(np.unique(out)) == set(np.unique(x))


def test_padding_repeats_the_edge_where_there_is_nothing_left_to_reflect():
    x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)
    out = pad_to_multiple(x, 8)
    assert out.shape == (1, 8, 8, 1)
    np.testing.assert_array_equal(out[0, :, :, 0], np.tile([1, 2, 3, 2, 1, 1, 1, 1], (8, 1)))


# Gradients and devices.


def gradient_of(model, params, *images):
    def loss(params):
        return jnp.square(model.apply({"params": params}, *images)).mean()

    return flatten_dict(jax.jit(jax.grad(loss))(params))


def test_every_parameter_that_is_used_gets_a_finite_gradient(small):
    model, params, _ = small
    for path, leaf in gradient_of(model, params, *inputs(), small_priors()).items():
        assert np.isfinite(leaf).all(), path
        unused = path[0] in ("down_1_film", "up_1_film")  # the deepest level takes no structure
        # One token is all there is to attend to, whatever the query and the key.
        unused |= "norm_cross" in path or path[-3:-1] in (
            ("cross_attention", "q"),
            ("cross_attention", "k"),
        )
        assert bool(np.abs(leaf).max() > 0) != unused, path


def test_gradients_through_bfloat16_are_close_to_those_through_float32(random_params):
    model = narrow_unet(multipliers=(1,), use_degradation=False, use_structure=False)
    params = random_params(model, *inputs())
    low = gradient_of(model.clone(dtype=jnp.bfloat16), params, *inputs())
    high = gradient_of(model, params, *inputs())
    for path, leaf in low.items():
        assert leaf.dtype == jnp.float32
        scale = np.linalg.norm(high[path])
        assert np.linalg.norm(leaf - high[path]) <= 0.1 * scale, path


def test_the_device_count_changes_nothing(small, make_mesh, assert_near):
    """The batch over two devices, the rows of every image over four."""
    model, params, apply = small
    images, priors = inputs(2, 16, 8), small_priors()
    expected = apply({"params": params}, *images, priors)
    mesh = make_mesh(data=2, spatial=4)
    rows = NamedSharding(mesh, PartitionSpec("data", "spatial"))
    batch, whole = (NamedSharding(mesh, PartitionSpec(*s)) for s in (("data",), ()))
    shardings = ({"params": whole}, rows, rows, batch, batch)
    found = jax.jit(model.apply, in_shardings=shardings, out_shardings=rows)(
        {"params": params}, *images, priors
    )
    assert len(found.sharding.device_set) == 8
    assert_near(found, expected, 1e-5)
