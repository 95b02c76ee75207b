"""Attention in turns: the same as plain attention, without holding all its scores."""

import math
import types

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from tpgdiff_jax.backbones import attention
from tpgdiff_jax.backbones.transformer import Attention
from tpgdiff_jax.config import base_config
from tpgdiff_jax.models.tpgdiff import build, cue_nets


@pytest.mark.parametrize("most", [1, 3, 7])  # queries in a turn, of 13
@pytest.mark.parametrize("form", [attention.attend_in_turns, attention.attend_by_head])
def test_attention_in_turns_is_the_same_attention(monkeypatch, assert_near, form, most):
    keys = jax.random.split(jax.random.key(0), 3)
    q = jax.random.normal(keys[0], (2, 13, 4, 8))
    k, v = (jax.random.normal(key, (2, 10, 4, 8)) for key in keys[1:])

    def total(q, k, v, attend):
        return (attend(q, k, v) ** 2).sum()

    plain = jax.nn.dot_product_attention
    whole, gradient = plain(q, k, v), jax.grad(total, (0, 1, 2))(q, k, v, plain)
    monkeypatch.setattr(attention, "_MAX_SCORES", 4 * 10 * most)
    monkeypatch.setattr(attention, "_MAX_CPU_SCORES", 10 * most)
    assert_near(form(q, k, v), whole, 1e-5)
    found = jax.grad(total, (0, 1, 2))(q, k, v, form)
    jax.tree.map(lambda a, b: assert_near(a, b, 1e-5), found, gradient)


def test_many_scores_are_computed_head_by_head_on_cpus(monkeypatch, assert_near):
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 40, 2, 8)) for i in range(3))
    whole = attention.attend(q, k, v)
    monkeypatch.setattr(attention, "_MIN_SCORES", 1000)
    assert_near(jax.jit(attention.attend)(q, k, v), whole, 1e-5)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("scores", [1, 130, 260, 390, 9 * 130])  # of one, two, three, all heads
def test_few_heads_at_a_time_are_the_same_attention(monkeypatch, assert_near, parts, scores):
    q = jax.random.normal(jax.random.key(0), (2, 13, 4, 8))
    k, v = (jax.random.normal(jax.random.key(i), (2, 10, 4, 8)) for i in (1, 2))

    def total(q, k, v, attend):
        return (attend(q, k, v) ** 2).sum()

    def few(q, k, v):
        return attention.attend_to_few_heads(q, k, v, parts)

    monkeypatch.setattr(attention, "_MAX_TPU_SCORES", scores)
    plain = jax.nn.dot_product_attention
    assert_near(few(q, k, v), plain(q, k, v), 1e-5)
    found = jax.grad(total, (0, 1, 2))(q, k, v, few)
    expected = jax.grad(total, (0, 1, 2))(q, k, v, plain)
    jax.tree.map(lambda a, b: assert_near(a, b, 1e-5), found, expected)
    shapes = set(_shapes(jax.make_jaxpr(few)(q, k, v).jaxpr))
    held = max(math.prod(shape) for shape in shapes if shape[-2:] == (13, 10))
    most = (parts if 4 % parts == 0 else 1) * max(1, scores // (13 * 10))  # heads in a turn
    assert held <= 2 * most * 13 * 10


def test_a_large_image_needs_no_square_of_its_pixels():
    shape = jax.ShapeDtypeStruct((1, 32_400, 16, 32), jnp.float32)  # 1920 x 1080, three levels down
    compiled = jax.jit(attention.attend).lower(shape, shape, shape).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30  # all scores: 63 GiB


def _shapes(jaxpr):
    """Yield the shape of every array that a program makes, those of its inner programs, too."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _shapes(inner)


def test_a_backbone_never_holds_all_scores_of_many_tokens():
    """A panorama of 300 x 3000 gives Depth Anything 13 690 tokens, in 6 heads."""
    tokens = 13_690
    layer = Attention(heads=6)
    x = jax.ShapeDtypeStruct((1, tokens, 384), jnp.float32)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    shapes = list(_shapes(jax.make_jaxpr(layer.apply)(params, x).jaxpr))
    assert any(384 in shape for shape in shapes)
    assert [shape for shape in shapes if shape.count(tokens) > 1] == []


@pytest.fixture
def with_flash(monkeypatch):
    """As if this process had a GPU whose cuDNN has flash kernels; programs are only lowered."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(attention, "_gpus_have_flash", lambda: True)
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)


@pytest.mark.parametrize(
    ("dtype", "width", "whole", "expected"),
    [
        (jnp.bfloat16, 32, True, True),
        (jnp.float32, 32, True, False),  # the kernel computes in 16 bits
        (jnp.bfloat16, 36, True, False),
        (jnp.bfloat16, 32, False, False),  # parts of images
    ],
)
def test_gpus_attend_to_whole_images_through_the_flash_kernel(
    with_flash, monkeypatch, dtype, width, whole, expected
):
    monkeypatch.setattr(attention, "_MIN_SCORES", 1)
    q = jax.ShapeDtypeStruct((2, 40, 2, width), dtype)

    def total(q, k, v):
        return attention.attend(q, k, v, whole=whole).astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(q, q, q)
    for platform in ("cuda", "cpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        called = {f"fmhaSoftmax{way}" in text for way in ("", "Backward")}
        assert called == {expected and platform == "cuda"}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("cue", ["depth", "segmentation"])
def test_networks_of_cues_attend_to_whole_images_through_it(with_flash, monkeypatch, cue, whole):
    monkeypatch.setattr(attention, "_MIN_SCORES", 1)
    config = base_config()
    config.priors.depth_net.update({"layers": 4, "taps": (1, 2, 3, 4)})
    config.priors.segmentation_net.depths = (1, 1, 1, 1)
    config.priors.update({"encoder": "none", "cues": (cue,)})
    config.model.dtype = "bfloat16"
    net = cue_nets(build(config))[cue].clone(whole=whole)
    images = jax.ShapeDtypeStruct((1, 56, 56, 3), jnp.bfloat16)
    params = jax.eval_shape(net.init, jax.random.key(0), images)
    text = jax.jit(net.apply).trace(params, images).lower(lowering_platforms=("cuda",)).as_text()
    assert ("fmhaSoftmax" in text) == whole


def test_without_a_gpu_there_is_no_flash_kernel():
    assert jax.default_backend() != "cpu" or not attention._gpus_have_flash()


@pytest.mark.parametrize(
    ("capability", "cudnn_version", "expected"),
    [("9.0", 91000, True), ("7.5", 91000, False), ("9.0", None, False)],
)
def test_the_flash_kernel_is_left_alone_where_gpu_or_cudnn_lack_it(
    monkeypatch, caplog, capability, cudnn_version, expected
):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    gpu = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda backend: [gpu])
    if cudnn_version:
        monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: cudnn_version)
    jax.clear_caches()  # of what was traced with another cuDNN
    with caplog.at_level("WARNING"):
        assert attention._gpus_have_flash.__wrapped__() == expected
    assert ("cuDNN is not detected" in caplog.text) == (cudnn_version is None)
