"""SegFormer computes what transformers' PyTorch program does, from the same files."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image

from tpgdiff_jax.backbones.segformer import SegFormer, segmentation_input, segmentation_map
from tpgdiff_jax.checkpoints.names import segformer as names
from tpgdiff_jax.config import base_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

RELEASED = SegFormer(**base_config().priors.segmentation_net)
SMALL = {
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 2, 1, 1],
    "num_attention_heads": [1, 2, 3, 4],
    "sr_ratios": [4, 2, 2, 1],
    "mlp_ratios": [4, 2, 4, 3],
    "decoder_hidden_size": 32,
    "num_labels": 11,
}
# Three stages that shrink otherwise, heads as a file without configuration has them.
OTHER = {
    "num_encoder_blocks": 3,
    "hidden_sizes": [32, 64, 64],
    "depths": [1, 1, 2],
    "num_attention_heads": [1, 2, 2],
    "sr_ratios": [4, 1, 1],
    "mlp_ratios": [2, 2, 2],
    "patch_sizes": [7, 5, 3],
    "strides": [4, 2, 2],
    "decoder_hidden_size": 16,
    "num_labels": 12,
}


def build(folder, **settings):
    """Return a PyTorch network with well-scaled random weights, stored in `folder`."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(**settings)
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.ndim > 1:
                x.normal_(0, x[0].numel() ** -0.5)
            else:
                x.normal_(float("norm" in name and name.endswith("weight")), 0.2)
        # The features before the classifier are positive: weights of mean zero let all classes win.
        classifier = model.decode_head.classifier.weight
        classifier -= classifier.mean(dim=1, keepdim=True)
        model.decode_head.batch_norm.running_mean.normal_(0, 0.5)
        model.decode_head.batch_norm.running_var.uniform_(0.3, 3)
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
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), image)["params"]


def both(model, module, params, size, batch=2):
    """Return the PyTorch network's logits and ours, [B, H, W, classes]."""
    images = np.random.default_rng(1).standard_normal((batch, *size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(images).permute(0, 3, 1, 2)).logits
    ours = jax.jit(module.apply)({"params": params}, images)
    return theirs.permute(0, 2, 3, 1).numpy(), ours


def check(assert_near, theirs, ours, relative=1e-4):
    assert ours.dtype == jnp.float32
    assert len(np.unique(theirs.argmax(-1))) >= 3  # one class everywhere would prove nothing
    assert_near(ours, theirs, relative)
    check_labels(theirs, segmentation_map(ours), relative)


def check_labels(logits, found, relative):
    """Require the likeliest class wherever the second one is not about as likely."""
    second, first = np.moveaxis(np.sort(logits, axis=-1)[..., -2:], -1, 0)
    clear = first - second > relative * np.abs(logits).max()
    assert clear.mean() > 0.99
    labels = np.asarray(found)[..., 0] * (logits.shape[-1] - 1)
    np.testing.assert_allclose(labels[clear], logits.argmax(-1)[clear], atol=1e-3)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return build(folder, **SMALL), *load(folder)


@pytest.mark.parametrize("size", [(64, 64), (96, 48), (53, 87), (32, 33)])
def test_the_small_network_answers_as_in_pytorch(assert_near, small, size):
    model, module, params, _ = small
    theirs, ours = both(model, module, params, size)
    assert ours.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 11)
    check(assert_near, theirs, ours)


def test_the_released_architecture_answers_as_in_pytorch(assert_near, tmp_path):
    model = build(tmp_path, num_labels=150)
    module, params, _ = load(tmp_path)
    assert module == RELEASED
    check(assert_near, *both(model, module, params, (512, 512), batch=1))


@pytest.mark.parametrize("with_config", [True, False])
def test_another_architecture_is_read_from_the_file(assert_near, tmp_path, with_config):
    model = build(tmp_path, **OTHER)
    module, params, _ = load(tmp_path, with_config)
    assert module.strides == (4, 2, 2)
    check(assert_near, *both(model, module, params, (48, 80)))


def test_all_norms_have_the_one_epsilon_we_use(small):
    norms = (torch.nn.LayerNorm, torch.nn.BatchNorm2d)
    assert {m.eps for m in small[0].modules() if isinstance(m, norms)} == {1e-5}


def test_bfloat16_stays_close_and_answers_in_float32(small):
    model, module, params, _ = small
    theirs, ours = both(model, module.clone(dtype=jnp.bfloat16), params, (64, 64))
    assert ours.dtype == jnp.float32
    assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()


def test_every_name_in_a_file_is_read_or_left_out_for_a_reason(small):
    _, module, params, arrays = small
    flat = flatten_dict(params)
    sources = names.sources({path: x.ndim for path, x in flat.items()})
    written = {}
    for path, value in flat.items():
        written |= sources[path].write(value)
    left = arrays.keys() - written.keys()
    assert left == {"decode_head.batch_norm.num_batches_tracked"}
    assert all(any(re.fullmatch(pattern, key) for pattern, _ in names.LEFT_OUT) for key in left)
    for key, value in written.items():
        np.testing.assert_array_equal(value, arrays[key], err_msg=key)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model_type": "beit"}, "model_type='beit'"), ({"hidden_act": "relu"}, "hidden_act='relu'")],
)
def test_another_configuration_is_refused_by_name(small, change, message):
    shapes = {key: value.shape for key, value in small[3].items()}
    with pytest.raises(ValueError, match=message):
        names.module_for(shapes, change)


def test_a_classifier_of_whole_images_is_refused(small):
    shapes = {k: x.shape for k, x in small[3].items() if not k.startswith("decode_head")}
    with pytest.raises(ValueError, match=r"lacks decode_head.*First keys: segformer"):
        names.module_for(shapes)


def test_an_image_without_keys_is_refused():
    with pytest.raises(ValueError, match="too small: a 7x16 map cannot be reduced 8-fold"):
        jax.eval_shape(RELEASED.init, jax.random.key(0), jnp.zeros((1, 28, 64, 3)))


# From version 13 on, Pillow may begin with the other axis where the height shrinks more.
@pytest.mark.parametrize("size", [(64, 48), (200, 300), (160, 160), (97, 411)])
def test_the_input_is_the_released_processors_within_one_grey_level(size):
    processing = pytest.importorskip("transformers.models.segformer.image_processing_pil_segformer")
    processor = processing.SegformerImageProcessorPil(size={"height": 128, "width": 128})
    image = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    theirs = processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
    ours = np.asarray(segmentation_input(jnp.asarray(image[None] / 255), 128)).transpose(0, 3, 1, 2)
    assert ours.shape == theirs.shape
    levels = np.abs(ours - theirs) * 255 * np.array([0.229, 0.224, 0.225])[:, None, None]
    assert levels.max() < 1.01
    # Simple ratios like 5 : 4 put many values just between two grey levels.
    assert (levels > 0.01).mean() < (0.06 if size == (160, 160) else 0.01)


def test_labels_at_another_size_are_the_released_processors():
    processing = pytest.importorskip("transformers.models.segformer.image_processing_pil_segformer")
    logits = np.random.default_rng(3).standard_normal((1, 16, 24, 7)).astype(np.float32)
    outputs = transformers.modeling_outputs.SemanticSegmenterOutput(
        logits=torch.from_numpy(logits).permute(0, 3, 1, 2)
    )
    process = processing.SegformerImageProcessorPil().post_process_semantic_segmentation
    for size in (None, (50, 61)):
        (theirs,) = process(outputs, target_sizes=size and [size])
        ours = segmentation_map(jnp.asarray(logits), size)
        np.testing.assert_allclose(6 * ours[0, ..., 0], theirs, atol=1e-5)
