"""Convolutions and products through oneDNN: values and gradients equal XLA's, wherever they run."""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tpgdiff_jax import native
from tpgdiff_jax.backbones import convolution, products
from tpgdiff_jax.backbones.convolution import convolve
from tpgdiff_jax.backbones.products import gram, pointwise
from tpgdiff_jax.native import choice

pytestmark = pytest.mark.skipif(choice.library_in_use() is None, reason="oneDNN is not here")

TARGETS = ("tpgdiff_onednn_convolution", "tpgdiff_onednn_product")
KINDS = {
    "1x1": (1, 1, 0),
    "3x3": (3, 1, 1),
    "3x3/2": (3, 2, 1),
    "4x4/2": (4, 2, 1),
    "7x7": (7, 1, 3),
}
SHAPES = [(2, 8, 8, 16, 32), (1, 13, 9, 3, 5)]  # batch, height, width, channels, features


def operands(kind, shape, dtype):
    size, stride, pad = KINDS[kind]
    batch, height, width, channels, features = shape
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((batch, height, width, channels)), dtype)
    kernel = jnp.asarray(rng.standard_normal((size, size, channels, features)), jnp.float32)
    bias = jnp.asarray(rng.standard_normal(features), jnp.float32)
    sides = ((side + 2 * pad - size) // stride + 1 for side in (height, width))
    dy = jnp.asarray(rng.standard_normal((batch, *sides, features)), dtype)
    return (x, kernel, bias, dy), (stride, ((pad, pad), (pad, pad)))


def value_and_gradients(function, *arrays):
    y, vjp = jax.vjp(function, *arrays[:-1])
    return [y, *vjp(arrays[-1])]


def layer(stride, padding, silu):
    return lambda x, kernel, bias: convolve(x, kernel, bias, stride, padding, silu)


def by_xla(stride, padding, silu):
    problem = native.Convolution(0, stride, padding, bias=True, silu=silu)
    return lambda x, kernel, bias: convolution._forward_form(problem)(x, kernel, bias)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_convolutions_and_gradients_equal_xlas(assert_near, kind, shape):
    arrays, place = operands(kind, shape, jnp.float32)
    for silu in (False, True):
        program = jax.jit(functools.partial(value_and_gradients, layer(*place, silu)))
        found = program(*arrays)
        expected = value_and_gradients(by_xla(*place, silu), *arrays)
        fused = jax.jit(layer(*place, silu))(*arrays[:3])
        for ours, theirs in zip([*found, fused], [*expected, expected[0]], strict=True):
            assert ours.dtype == jnp.float32
            assert_near(ours, theirs, 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_convolutions_sum_in_float32(assert_near, kind, shape):
    arrays, place = operands(kind, shape, jnp.bfloat16)
    rounded = [a.astype(jnp.bfloat16).astype(jnp.float32) for a in arrays]
    rounded[2] = arrays[2]
    program = jax.jit(functools.partial(value_and_gradients, layer(*place, False)))
    found = program(*arrays)
    exact = value_and_gradients(by_xla(*place, False), *rounded)
    assert [a.dtype.name for a in found] == ["bfloat16", "bfloat16", "float32", "float32"]
    for ours, theirs, bound in zip(found, exact, (2**-8, 2**-8, 1e-5, 1e-5), strict=True):
        assert_near(ours.astype(jnp.float32), theirs, bound)  # kernels' gradients are not rounded


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("leading", [(300,), (2, 15, 10), (2, 3, 5, 10)])
def test_products_and_gradients_equal_xlas(assert_near, monkeypatch, leading, dtype):
    monkeypatch.setattr(products, "_MIN_PRODUCT", 0)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((*leading, 24)), dtype)
    kernel = jnp.asarray(rng.standard_normal((24, 40)), jnp.float32)
    bias = jnp.asarray(rng.standard_normal(40), jnp.float32)
    dy = jnp.asarray(rng.standard_normal((*leading, 40)), dtype)
    program = jax.jit(functools.partial(value_and_gradients, pointwise))
    found = program(x, kernel, bias, dy)
    assert "tpgdiff_onednn_product" in program.lower(x, kernel, bias, dy).as_text()
    exact = [a.astype(dtype).astype(jnp.float32) for a in (x, kernel, dy)]
    exact = value_and_gradients(lambda x, k, b: x @ k + b, *exact[:2], bias, exact[2])
    bounds = (1e-5,) * 4 if dtype == jnp.float32 else (2**-8, 2**-8, 1e-5, 1e-5)
    for ours, theirs, bound in zip(found, exact, bounds, strict=True):
        assert_near(ours.astype(jnp.float32), theirs, bound)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("has_residual", [False, True])
def test_what_follows_a_convolution_is_fused_with_it(assert_near, dtype, silu, has_residual):
    (x, kernel, bias, dy), place = operands("3x3", (3, 9, 8, 16, 32), dtype)
    rng = np.random.default_rng(1)
    scale, shift = (jnp.asarray(rng.standard_normal((3, 32)), dtype) for _ in range(2))
    residual = jnp.asarray(rng.standard_normal(dy.shape), dtype) if has_residual else None
    rest = (scale, shift, residual)

    def ours(x, kernel, bias, scale, shift, residual):
        return convolve(x, kernel, bias, *place, silu, scale, shift, residual)

    def plain(x, kernel, bias, scale, shift, residual):
        z = by_xla(*place, False)(x, kernel, bias)
        z = z * (1 + scale[:, None, None]) + shift[:, None, None]
        z = jax.nn.silu(z) if silu else z
        return z if residual is None else z + residual

    def exact(array):
        return None if array is None else array.astype(jnp.float32)

    fused = jax.jit(ours)
    assert fused.lower(x, kernel, bias, *rest).as_text().count(f"@{TARGETS[0]}") == 1
    kernel = kernel.astype(dtype).astype(jnp.float32)
    arrays = (x, kernel, bias, *rest, dy)
    expected = value_and_gradients(plain, *map(exact, arrays))
    program = jax.jit(functools.partial(value_and_gradients, ours))
    near = 1e-5 if dtype == jnp.float32 else 2**-5  # what follows is rounded at every step
    tight = 1e-5 if dtype == jnp.float32 else 2**-8
    assert_near(exact(fused(x, kernel, bias, *rest)), expected[0], tight)
    for mine, theirs in zip(program(*arrays), expected, strict=True):
        if theirs is not None:
            assert_near(exact(mine), theirs, near)


def test_a_bfloat16_kernel_gets_a_bfloat16_gradient():
    (x, kernel, _, dy), _ = operands("3x3", SHAPES[0], jnp.bfloat16)
    found = value_and_gradients(convolve, x, kernel.astype(jnp.bfloat16), dy)
    assert {a.dtype.name for a in found} == {"bfloat16"}


@pytest.mark.parametrize("silu", [False, True])
def test_nan_and_infinity_spread_as_in_xla(silu):
    (x, kernel, bias, _), place = operands("3x3", SHAPES[0], jnp.float32)
    x = x.at[0, 3, 4, 1].set(jnp.nan).at[1, 0, 0, 0].set(jnp.inf)
    ours = jax.jit(layer(*place, silu))(x, kernel, bias)
    theirs = by_xla(*place, silu)(x, kernel, bias)
    np.testing.assert_array_equal(jnp.isnan(ours), jnp.isnan(theirs))
    assert jnp.isnan(ours[0, 3, 4]).all()
    assert not jnp.isnan(ours[0, 6:]).any()


def test_vmap_merges_images_into_one_call(assert_near):
    (x, kernel, _, _), _ = operands("3x3", (6, 8, 7, 4, 8), jnp.float32)
    stacked = jnp.moveaxis(x.reshape(3, 2, 8, 7, 4), 0, 1)
    program = jax.jit(jax.vmap(convolve, in_axes=(1, None), out_axes=1))
    assert program.lower(stacked, kernel).as_text().count("@tpgdiff_onednn_convolution") == 1
    assert_near(
        jnp.moveaxis(program(stacked, kernel), 1, 0).reshape(6, 8, 7, 8), convolve(x, kernel), 1e-6
    )


def test_vmap_over_kernels_and_gradients_of_each_example(assert_near):
    (x, kernel, _, dy), _ = operands("3x3", (3, 8, 7, 4, 8), jnp.float32)
    x, dy = x[:, None], dy[:, None]
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])
    for in_axes, second in (((0, 0, 0), kernels), ((0, None, 0), kernel)):
        function = functools.partial(value_and_gradients, convolve)
        together = jax.jit(jax.vmap(function, in_axes=in_axes))(x, second, dy)
        for i in range(3):
            alone = function(x[i], second[i] if in_axes[1] == 0 else second, dy[i])
            for ours, theirs in zip(together, alone, strict=True):
                assert_near(ours[i], theirs, 1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("form", [pointwise, gram])
def test_products_of_each_example_are_one_call(assert_near, monkeypatch, form, dtype):
    monkeypatch.setattr(products, "_MIN_PRODUCT", 0)
    shapes = {pointwise: ((70, 24), (24, 40), (70, 40)), gram: ((70, 24), (70, 40), (24, 40))}
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal((3, *shape)), dtype) for shape in shapes[form]]
    arrays[2] = arrays[2].astype(jax.eval_shape(form, *arrays[:2]).dtype)
    arrays[1] = jnp.moveaxis(arrays[1], 0, 1)  # the axis of the examples may lie anywhere
    together = jax.vmap(functools.partial(value_and_gradients, form), in_axes=(0, 1, 0))
    program = jax.jit(together)
    assert program.lower(*arrays).as_text().count("@tpgdiff_onednn_product") == 3
    exact = {pointwise: lambda x, y: x @ y, gram: lambda x, y: x.T @ y}[form]
    wide = [array.astype(jnp.float32) for array in arrays]
    expected = jax.vmap(functools.partial(value_and_gradients, exact), in_axes=(0, 1, 0))(*wide)
    bound = 1e-5 if dtype == jnp.float32 else 2**-7
    for ours, theirs in zip(program(*arrays), expected, strict=True):
        assert_near(ours.astype(jnp.float32), theirs, bound)


def test_many_threads_and_devices_share_the_library(assert_near):
    cases = []
    for index, kind in enumerate(KINDS):
        arrays, place = operands(kind, (2, 12 + index, 10, 8, 16), jnp.float32)
        program = jax.jit(layer(*place, False))
        cases.append((program, arrays[:3], program(*arrays[:3])))

    def repeat(number):
        program, arrays, expected = cases[number % len(cases)]
        device = jax.devices()[number % jax.device_count()]
        arrays = jax.device_put(arrays, device)
        for _ in range(20):
            assert_near(program(*arrays), expected, 1e-6)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(repeat, range(16)))


@pytest.mark.parametrize("spec", [PartitionSpec("data"), PartitionSpec("data", "spatial")])
def test_programs_over_several_devices_run_through_xla(make_mesh, spec):
    (x, kernel, _, _), _ = operands("3x3", (8, 8, 8, 4, 6), jnp.float32)
    mesh = make_mesh(data=2, spatial=4)
    x = jax.device_put(x, NamedSharding(mesh, spec))
    kernel = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    lowered = jax.jit(convolve).lower(x, kernel)
    assert not any(target in lowered.as_text() for target in TARGETS)
    assert "all-gather" not in lowered.compile().as_text()


def test_each_device_calls_onednn_on_its_own_part(assert_near, make_mesh):
    (x, kernel, _, _), _ = operands("3x3", (8, 8, 8, 4, 6), jnp.float32)
    mesh = make_mesh(data=8)
    specs = (PartitionSpec("data"), PartitionSpec())
    local = jax.shard_map(convolve, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    lowered = jax.jit(local).lower(x, kernel)
    assert TARGETS[0] in lowered.as_text()
    assert_near(jax.jit(local)(x, kernel), convolve(x, kernel), 1e-6)


def test_programs_of_other_platforms_do_not_know_onednn():
    (x, kernel, bias, dy), place = operands("3x3", SHAPES[0], jnp.float32)
    program = jax.jit(functools.partial(value_and_gradients, layer(*place, True)))
    traced = program.trace(x, kernel, bias, dy)
    assert TARGETS[0] in traced.lower(lowering_platforms=("cpu",)).as_text()
    for platform in ("cuda", "tpu"):
        assert "tpgdiff" not in traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float64])
def test_other_dtypes_run_through_xla(dtype):
    with jax.enable_x64(True):
        x, kernel = jnp.ones((1, 4, 4, 2), dtype), jnp.ones((3, 3, 2, 2), dtype)
        lowered = jax.jit(convolve).lower(x, kernel)
        assert TARGETS[0] not in lowered.as_text()
        assert jax.jit(convolve)(x, kernel).dtype == dtype


def test_empty_batches_run_through_xla():
    assert convolve(jnp.zeros((0, 4, 4, 2)), jnp.ones((3, 3, 2, 5))).shape == (0, 4, 4, 5)


def test_what_onednn_refuses_runs_through_xla_and_is_said_once(assert_near, caplog, monkeypatch):
    library = choice.library_in_use()
    monkeypatch.setattr(library, "describe", lambda *_: (False, "too odd"))
    (x, kernel, _, _), _ = operands("3x3", (1, 5, 6, 2, 3), jnp.float32)
    with caplog.at_level("INFO", logger="absl"):
        for program in (jax.jit(lambda x, k: convolve(x, k)), jax.jit(lambda x, k: convolve(x, k))):
            assert TARGETS[0] not in program.lower(x, kernel).as_text()
    assert sum("too odd" in record.message for record in caplog.records) == 1


def test_the_chosen_way_is_what_programs_are_compiled_to(assert_near):
    (x, kernel, _, _), _ = operands("3x3", SHAPES[0], jnp.float32)
    answers = {}
    for way in ("xla", "auto"):
        native.choose(way)
        program = jax.jit(lambda x, k: convolve(x, k))
        assert (TARGETS[0] in program.lower(x, kernel).as_text()) == (way == "auto")
        answers[way] = program(x, kernel)
    assert_near(answers["auto"], answers["xla"], 1e-6)
