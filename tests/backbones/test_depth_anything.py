"""Depth Anything computes what transformers' PyTorch program does, from the same files."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from tpgdiff_jax.backbones.depth_anything import (
    DepthAnything,
    depth_input,
    depth_size,
    normalised_depth,
)
from tpgdiff_jax.checkpoints.names import depth_anything as names
from tpgdiff_jax.config import base_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

SIDE = 70  # native size of the small network: five patches
RELEASED = DepthAnything(**base_config().priors.depth_net)
SMALL = {
    "neck_hidden_sizes": [8, 12, 16, 24],
    "reassemble_hidden_size": 64,
    "fusion_hidden_size": 16,
    "head_hidden_size": 8,
}
SMALL_TRUNK = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "out_indices": [1, 2, 3, 4],
}

RELEASED_TRUNK = {
    "hidden_size": 384,
    "num_attention_heads": 6,
    "image_size": 518,
    "out_indices": [9, 10, 11, 12],
}


def build(folder, trunk, **settings):
    """Return a PyTorch network with well-scaled random weights, stored in `folder`."""
    trunk = transformers.Dinov2Config(patch_size=14, reshape_hidden_states=False, **trunk)
    config = transformers.DepthAnythingConfig(backbone_config=trunk, **settings)
    torch.manual_seed(0)
    model = transformers.DepthAnythingForDepthEstimation(config).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.ndim > 1:
                # PyTorch lays the kernels of transposed convolutions out as [in, out, k, k].
                expands = "resize" in name and x.shape[-1] != 3
                fan_in = x.shape[0] if expands else x[0].numel()
                x.normal_(0, 0.5 if "embeddings.p" in name and x.ndim == 3 else fan_in**-0.5)
            elif "lambda" in name:
                x.uniform_(-1, 1)
            else:
                x.normal_(float("norm" in name and name.endswith("weight")), 0.2)
        model.head.conv3.bias.fill_(1.0)  # keeps most of the map above the last ReLU
    model.save_pretrained(folder)
    return model


def load(folder, with_config=True):
    """Return our network and its parameters, read from `folder`, and the arrays there."""
    arrays = safetensors.load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    shapes = {key: value.shape for key, value in arrays.items()}
    module = names.module_for(shapes, config if with_config else None)
    expected = flatten_dict(abstract_params(module))
    sources = names.sources({path: leaf.ndim for path, leaf in expected.items()})
    flat = {path: s.read([arrays[key] for key in s.keys]) for path, s in sources.items()}
    assert {path: x.shape for path, x in flat.items()} == {p: x.shape for p, x in expected.items()}
    return module, unflatten_dict(flat), arrays


def abstract_params(module):
    image = jax.ShapeDtypeStruct((1, 2 * module.patch, 2 * module.patch, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), image)["params"]


def both(model, module, params, size, batch=2):
    """Return the PyTorch network's answer and ours, [B, H, W, 1]."""
    images = np.random.default_rng(1).standard_normal((batch, *size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(images).permute(0, 3, 1, 2)).predicted_depth.numpy()
    ours = jax.jit(module.apply)({"params": params}, images)
    return theirs[..., None], ours


def check(assert_near, theirs, ours):
    assert ours.dtype == jnp.float32
    assert (theirs > 0).mean() > 0.5  # a map of zeros would prove nothing
    assert theirs.std() > 0.02 * theirs.max()
    assert_near(ours, theirs, 1e-4)
    stretched = [(d - d.min()) / (d.max() - d.min()) for d in theirs]
    assert_near(normalised_depth(ours), stretched, 1e-4)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return build(folder, SMALL_TRUNK, **SMALL), *load(folder)


@pytest.mark.parametrize("size", [(SIDE, SIDE), (56, 98), (113, 42), (14, 28)])
def test_the_small_network_answers_as_in_pytorch(assert_near, small, size):
    model, module, params, _ = small
    theirs, ours = both(model, module, params, size)
    assert ours.shape == (2, size[0] // 14 * 14, size[1] // 14 * 14, 1)
    check(assert_near, theirs, ours)


def test_the_released_architecture_answers_as_in_pytorch(assert_near, tmp_path):
    model = build(tmp_path, RELEASED_TRUNK)
    module, params, _ = load(tmp_path)
    assert module == RELEASED
    check(assert_near, *both(model, module, params, (518, 518), batch=1))


@pytest.mark.parametrize("taps", [[1, 2, 4], [2, 3, 4]])
def test_other_taps_and_factors_are_read_from_the_file(assert_near, tmp_path, taps):
    settings = SMALL | {"neck_hidden_sizes": [8, 12, 16], "reassemble_factors": [2, 1, 0.5]}
    trunk = SMALL_TRUNK | {"num_attention_heads": 1, "out_indices": taps}
    model = build(tmp_path, trunk, **settings)
    module, params, _ = load(tmp_path, with_config=taps != [2, 3, 4])  # the last three: no need
    assert module.taps == tuple(taps)
    assert tuple(module.factors) == (2, 1, 0.5)
    check(assert_near, *both(model, module, params, (42, 56)))


@pytest.mark.parametrize(
    "trunk",
    [
        {},
        {"out_features": ["stage3", "stage2", "stage4", "stage1"], "out_indices": [4]},
        {"out_indices": [-4, -3, -2, -1]},
    ],
)
def test_taps_are_named_or_numbered_or_the_last_ones(small, trunk):
    shapes = {key: value.shape for key, value in small[3].items()}
    module = names.module_for(shapes, {"backbone_config": trunk})
    assert module.taps == (1, 2, 3, 4)


def test_all_norms_have_the_one_epsilon_we_use(small):
    norms = [m for m in small[0].modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}


def test_bfloat16_stays_close_and_answers_in_float32(small):
    model, module, params, _ = small
    theirs, ours = both(model, module.clone(dtype=jnp.bfloat16), params, (SIDE, SIDE))
    assert ours.dtype == jnp.float32
    assert np.abs(ours - theirs).max() < 0.05 * theirs.max()


def test_every_name_in_a_file_is_read_or_left_out_for_a_reason(small):
    _, module, params, arrays = small
    flat = flatten_dict(params)
    sources = names.sources({path: x.ndim for path, x in flat.items()})
    written = {}
    for path, value in flat.items():
        written |= sources[path].write(value)
    left = arrays.keys() - written.keys()
    assert all(any(re.fullmatch(pattern, key) for pattern, _ in names.LEFT_OUT) for key in left)
    assert len(left) == 5
    for key, value in written.items():
        np.testing.assert_array_equal(value, arrays[key], err_msg=key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "dpt"}, "model_type='dpt'"),
        ({"depth_estimation_type": "metric"}, "depth_estimation_type='metric'"),
        ({"head_in_index": 0}, "head_in_index=0"),
        ({"backbone_config": {"use_swiglu_ffn": True}}, "use_swiglu_ffn=True"),
        ({"backbone_config": {"model_type": "swin"}}, "model_type='swin'"),
        ({"backbone_config": {"hidden_act": "silu"}}, "hidden_act='silu'"),
        ({"backbone_config": {"out_indices": [3, 4]}}, "a neck of 4 maps"),
        ({"backbone_config": {"out_indices": [0, 1, 2, 3]}}, "a neck of 4 maps"),
        ({"backbone_config": {"out_features": ["stage9"]}}, "stage9"),
    ],
)
def test_another_configuration_is_refused_by_name(small, change, message):
    shapes = {key: value.shape for key, value in small[3].items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        names.module_for(shapes, change)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"backbone.encoder.layer.0.mlp.weights_in.weight": (8, 8)}, "swiglu"),
        ({"backbone.embeddings.register_tokens": (1, 4, 64)}, "register tokens"),
        ({"backbone.embeddings.position_embeddings": (1, 24, 64)}, "no square"),
    ],
)
def test_another_architecture_is_refused_by_its_keys(small, extra, message):
    shapes = {key: value.shape for key, value in small[3].items()} | extra
    with pytest.raises(ValueError, match=message):
        names.module_for(shapes)


def test_a_foreign_file_is_refused_with_its_first_keys():
    with pytest.raises(ValueError, match=r"lacks backbone\.embeddings.*First keys: conv\.weight"):
        names.module_for({"conv.weight": (1, 1)})


def test_unequal_taps_and_factors_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        abstract_params(RELEASED.clone(width=8, heads=1, image_size=28, factors=(1,)))


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), size=st.sampled_from([518, 384]))
@example(height=518, width=518, size=518)
@example(height=2000, width=20, size=518)
@example(height=525, width=511, size=518)
def test_the_size_is_the_released_processors(height, width, size):
    processing = pytest.importorskip("transformers.models.dpt.image_processing_pil_dpt")
    image = np.broadcast_to(np.uint8(0), (3, height, width))
    theirs = processing.get_resize_output_image_size(image, (size, size), True, 14)
    # Theirs rounds the short side of very long images to nothing.
    expected = max(theirs.height, 14), max(theirs.width, 14)
    assert depth_size(height, width, size, 14) == expected


@pytest.mark.parametrize("size", [(64, 48), (90, 135), (300, 200), (131, 131)])
def test_the_input_is_the_released_processors_within_one_grey_level(size):
    processing = pytest.importorskip("transformers.models.dpt.image_processing_pil_dpt")
    processor = processing.DPTImageProcessorPil(
        size={"height": 126, "width": 126},
        keep_aspect_ratio=True,
        ensure_multiple_of=14,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    theirs = processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
    ours = np.asarray(depth_input(jnp.asarray(image[None] / 255), 126)).transpose(0, 3, 1, 2)
    assert ours.shape == theirs.shape
    levels = np.abs(ours - theirs) * 255 * np.array([0.229, 0.224, 0.225])[:, None, None]
    assert levels.max() < 1.01
    assert (levels > 0.01).mean() < 0.01


def test_normalised_depth_spans_0_to_1_and_a_constant_map_is_0():
    depth = np.random.default_rng(3).uniform(2, 5, (2, 6, 7, 1)).astype(np.float32)
    depth[1] = 3
    stretched = normalised_depth(jnp.asarray(depth))
    assert stretched[0].min() == 0
    assert stretched[0].max() == 1
    np.testing.assert_array_equal(stretched[1], 0)
