"""CLIP's view of an image, and its image tower, are those of the programs they come from."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

from tpgdiff_jax.backbones.vit import (
    CLIP_MEAN,
    CLIP_STD,
    ClipImageTower,
    clip_view,
    resize_positions,
)
from tpgdiff_jax.checkpoints.convert import convert, from_reference
from tpgdiff_jax.checkpoints.names import clip as names

SMALL = {"patch": 8, "width": 32, "layers": 2, "heads": 4, "image_size": 32, "features": 16}
SMALL_THERE = {
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "intermediate_size": 128,
}


def levels_apart(view, other):
    """Return how far two normalised views differ, in grey levels."""
    return np.abs(np.asarray(view, np.float64) - np.asarray(other, np.float64)) * 255 * CLIP_STD


@pytest.mark.parametrize("number", [1, 2])
def test_the_view_is_the_released_programs(golden, number):
    arrays = golden("clip_view")
    view = jax.jit(clip_view)(jnp.asarray(arrays[f"image{number}"][None] / np.float32(255)))
    assert view.shape == (1, 224, 224, 3)
    apart = levels_apart(view[0], arrays[f"view{number}"])
    assert apart.mean() < 0.05
    assert apart.max() <= 1.1


@pytest.mark.parametrize("size", [(48, 48), (57, 31), (31, 57), (200, 63), (40, 41), (51, 48)])
def test_any_aspect_ratio_gives_pillows_centre_crop(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    side, short = 48, min(size)
    # torchvision's rules: the long side is cut to whole pixels, the crop's corner is rounded.
    height, width = (side if s == short else int(side * s / short) for s in size)
    # One axis after the other: from version 13 on Pillow begins with the rows for some shapes.
    resized = Image.fromarray(image).resize((width, size[0]), Image.Resampling.BICUBIC)
    resized = resized.resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - side) / 2), round((width - side) / 2)
    crop = np.asarray(resized)[top : top + side, left : left + side]
    assert crop.shape == (side, side, 3)
    view = clip_view(jnp.asarray(image[None] / np.float32(255)), side)
    apart = levels_apart(view[0], (crop / 255 - CLIP_MEAN) / CLIP_STD)
    assert apart.mean() < 0.05
    assert apart.max() <= 1.1


@pytest.mark.parametrize("long", ["height", "width"])
def test_a_long_strip_needs_no_more_memory_than_its_crop(long):
    """Whole, the filter of this picture would be a matrix of 16 GiB."""
    image = np.zeros((1, 25_000, 64, 3), np.float32)
    image[:, 12_450:12_550] = 0.5  # the crop shows 64 rows in the middle
    image = image if long == "height" else image.swapaxes(1, 2)
    tracemalloc.start()
    view = np.asarray(clip_view(jnp.asarray(image)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**29
    assert levels_apart(view[0], (128 / 255 - np.array(CLIP_MEAN)) / CLIP_STD).max() < 0.1


def test_the_view_rounds_and_clips_to_grey_levels():
    image = jnp.asarray(np.random.default_rng(1).uniform(-0.2, 1.2, (1, 24, 30, 3)), jnp.float32)
    levels = np.round(np.clip(image, 0, 1) * 255)
    np.testing.assert_array_equal(clip_view(image, 16), clip_view(jnp.asarray(levels) / 255, 16))


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def transformers_tower(request, tmp_path_factory):
    """A random tower of transformers, its file's arrays and its config.json."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    safetensors = pytest.importorskip("safetensors.numpy")
    config = transformers.CLIPVisionConfig(
        **SMALL_THERE, hidden_act=request.param, projection_dim=16
    )
    torch.manual_seed(0)
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.ndim > 1:
                x.normal_(0, 0.3 if "embedding.weight" in name else x[0].numel() ** -0.5)
            else:
                x.normal_(float("norm" in name and name.endswith("weight")), 0.2)
            if "embedding" in name or "pre_layrnorm" in name:
                x.mul_(0.02)  # faint inputs show the norms' epsilon
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    arrays = safetensors.load_file(folder / "model.safetensors")
    return model, arrays, json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("size", [(32, 32), (48, 24), (40, 64)])
def test_the_tower_answers_as_in_transformers(assert_near, transformers_tower, size):
    import torch

    model, arrays, config = transformers_tower
    converted = convert(arrays, "clip", config)
    activation = model.config.hidden_act
    assert converted.modules == ClipImageTower(**SMALL, activation=activation)
    view = np.random.default_rng(2).standard_normal((3, *size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(
            torch.from_numpy(view).permute(0, 3, 1, 2),
            interpolate_pos_encoding=size != (32, 32),
        ).image_embeds.numpy()
    ours = jax.jit(converted.modules.apply)({"params": converted.params}, view)
    assert_near(ours, theirs, 1e-4)
    # The other activation would not pass.
    other = "gelu" if activation == "quick_gelu" else "quick_gelu"
    wrong = converted.modules.clone(activation=other).apply({"params": converted.params}, view)
    assert np.abs(wrong - theirs).max() > 1e-3 * np.abs(theirs).max()


def test_a_whole_clip_model_of_transformers_gives_its_image_tower(transformers_tower):
    transformers = pytest.importorskip("transformers")
    _, arrays, config = transformers_tower
    vision = {name: config[name] for name in (*SMALL_THERE, "hidden_act")}
    text = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    sizes = {"vision_config": vision, "text_config": text, "projection_dim": 16}
    model = transformers.CLIPModel(transformers.CLIPConfig(**sizes))
    whole = {key: value.numpy() for key, value in model.state_dict().items()}
    text_keys = [key for key in whole if key.startswith("text")]
    assert len(text_keys) > 10
    converted = convert(whole | arrays, "clip", sizes)
    expected = convert(arrays, "clip", config)
    assert converted.modules == expected.modules
    assert converted.loaded == expected.loaded
    assert converted.left_out["text tower"] >= len(text_keys)
    assert sum(converted.left_out.values()) == len(whole) - expected.loaded
    jax.tree.map(np.testing.assert_array_equal, converted.params, expected.params)


@pytest.fixture(scope="module")
def bare(random_params):
    """A file of the tower alone in open_clip's naming, and the parameters it holds."""
    tower = ClipImageTower(**SMALL)
    params = jax.tree.map(np.asarray, random_params(tower, jnp.zeros((1, 32, 32, 3))))
    flat, arrays = flatten_dict(params), {}
    for path, source in names.sources({path: x.ndim for path, x in flat.items()}).items():
        arrays |= source.write(flat[path])
    return arrays, params


def test_the_image_tower_of_a_whole_open_clip_file_is_found(bare):
    arrays, params = bare
    config = {"num_attention_heads": SMALL["heads"]}
    jax.tree.map(np.testing.assert_array_equal, from_reference(arrays, "clip", config), params)
    # The text tower's blocks carry the bare tower's names, at other shapes.
    text = {
        "positional_embedding": np.zeros((7, 24), np.float32),
        "transformer.resblocks.0.attn.in_proj_weight": np.zeros((72, 24), np.float32),
        "transformer.resblocks.5.ln_1.weight": np.zeros(24, np.float32),
        "token_embedding.weight": np.zeros((9, 24), np.float32),
        "text_projection": np.zeros((24, 16), np.float32),
        "ln_final.bias": np.zeros(24, np.float32),
        "attn_mask": np.zeros((7, 7), np.float32),
    }
    whole = {f"visual.{key}": value for key, value in arrays.items()} | text
    whole["logit_scale"] = np.float32(4.6)
    converted = convert(whole, "clip", config)
    assert converted.modules == ClipImageTower(**SMALL)
    jax.tree.map(np.testing.assert_array_equal, converted.params, params)
    assert converted.loaded == len(arrays)
    assert converted.left_out == {"text tower": len(text), "temperature of CLIP's loss": 1}


def test_heads_are_64_wide_where_no_configuration_tells(bare, golden_weights):
    assert convert(bare[0], "clip").modules.heads == 1
    wide = golden_weights("prior_tiny")
    tower = {k.removeprefix("student."): v for k, v in wide.items() if k.startswith("student.")}
    assert convert(tower, "clip").modules == ClipImageTower(8, 64, 2, 1, 32, 512)


def test_missing_parts_of_a_projection_are_reported_by_name(transformers_tower):
    _, arrays, config = transformers_tower
    key = "vision_model.encoder.layers.1.self_attn.k_proj.bias"
    arrays = {name: value for name, value in arrays.items() if name != key}
    with pytest.raises(ValueError, match=r"1 missing: transformer\.resblocks\.1\.attn\.in_proj"):
        convert(arrays, "clip", config)


def test_positions_stay_on_the_same_grid_and_the_class_row_everywhere():
    table = jnp.asarray(np.random.default_rng(3).standard_normal((1 + 16, 8)), jnp.float32)
    np.testing.assert_array_equal(resize_positions(table, (4, 4)), table)
    larger = resize_positions(table, (3, 7))
    assert larger.shape == (1 + 21, 8)
    np.testing.assert_array_equal(larger[0], table[0])
    # Rows and columns are not confused: a table that varies along rows only stays so.
    rows = jnp.repeat(jnp.arange(4.0), 4)[:, None]
    grid = resize_positions(jnp.concatenate([jnp.zeros((1, 1)), rows]), (8, 2))[1:].reshape(8, 2)
    np.testing.assert_allclose(grid[:, 0], grid[:, 1], atol=1e-6)
    assert (np.diff(grid[:, 0]) > 0.1).all()


def test_an_image_smaller_than_a_patch_is_refused():
    tower = ClipImageTower(**SMALL)
    with pytest.raises(ValueError, match="A 32x7 image holds no 8-pixel patch"):
        jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 32, 7, 3)))
