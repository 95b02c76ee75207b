"""Released weights convert to ours and back, bit for bit, or fail with the keys at fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tpgdiff_jax.checkpoints.convert import from_reference, to_reference, unet_for
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.models.unet import ConditionalUNet

FILES = ("unet_nf32", "unet_nf64", "unet_nf32_noprior")


@pytest.fixture
def state_dict(golden_weights):
    """A small released state dict that a test may change."""
    return dict(golden_weights("unet_nf32_noprior"))


@pytest.mark.parametrize(
    ("name", "part"),
    [*((name, "unet") for name in FILES), ("structure", "structure"), ("prior_tiny", "priors")],
)
def test_a_state_dict_survives_the_way_there_and_back(golden_weights, name, part):
    released = golden_weights(name)
    back = to_reference(from_reference(released, part), part)
    assert back.keys() == released.keys()
    for key, value in released.items():
        assert back[key].dtype == value.dtype
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.mark.parametrize("name", FILES)
def test_converted_parameters_fit_the_network(golden_weights, name):
    model = unet_for(golden_weights(name))
    image = jnp.zeros((1, 16, 16, 3))
    expected = jax.eval_shape(model.init, jax.random.key(0), image, image, jnp.ones(1))["params"]
    found = from_reference(golden_weights(name), "unet")
    assert jax.tree.map(np.shape, found) == jax.tree.map(lambda leaf: leaf.shape, expected)


@pytest.mark.parametrize(
    ("name", "width", "priors"),
    [("unet_nf32", 32, True), ("unet_nf64", 64, True), ("unet_nf32_noprior", 32, False)],
)
def test_widths_and_priors_are_read_from_the_released_files(golden_weights, name, width, priors):
    assert unet_for(golden_weights(name)) == ConditionalUNet(
        width=width, use_degradation=priors, use_semantic=priors, use_structure=priors
    )


@pytest.mark.parametrize(
    "model",
    [
        ConditionalUNet(width=8, multipliers=(1, 3), use_semantic=False),
        ConditionalUNet(width=32, multipliers=(1, 2, 1), use_structure=False),
        ConditionalUNet(width=8, multipliers=(2,), use_degradation=False, use_semantic=False),
    ],
)
def test_networks_of_other_shapes_survive_the_way_there_and_back(model):
    image = jnp.zeros((1, 8, 8, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, image, jnp.ones(1))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape, dtype=np.float32), shapes)
    released = to_reference(params, "unet")
    assert len(released) == len(jax.tree.leaves(params))
    assert unet_for(released) == model
    back = flatten_dict(from_reference(released, "unet"))
    expected = flatten_dict(params)
    assert back.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(back[path], value, err_msg="/".join(path))


def test_names_are_those_of_the_released_file(golden_weights):
    shapes = abstract_params(ConditionalUNet())
    params = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    names = to_reference(params, "unet").keys()
    assert len(names) == len(jax.tree.leaves(params))
    assert names == golden_weights("unet_nf64").keys()


def test_layouts_turn_from_pytorchs_to_ours(golden_weights):
    released = golden_weights("unet_nf32")
    params = from_reference(released, "unet")
    stem = released["init_conv.weight"]  # [out, in, height, width]
    assert params["stem"]["kernel"][3, 5, 2, 7] == stem[7, 2, 3, 5]
    linear = released["time_mlp.1.weight"]  # [out, in]
    assert params["time_embedding"]["dense_in"]["kernel"][4, 9] == linear[9, 4]
    pointwise = released["downs.0.2.fn.fn.to_qkv.weight"]  # [out, in, 1, 1]
    assert params["down_0_attention"]["attention"]["qkv"]["kernel"][4, 9] == pointwise[9, 4, 0, 0]
    # The released decoder counts its levels from the deepest.
    deepest = released["ups.0.0.block1.proj.weight"]
    assert params["up_3_block_0"]["conv_in"]["kernel"][0, 2, 6, 1] == deepest[1, 6, 0, 2]


def test_all_problems_are_listed_in_one_message(state_dict):
    total = len(state_dict)
    del state_dict["time_mlp.1.bias"], state_dict["final_conv.weight"]
    state_dict["module.extra"] = np.zeros(3, np.float32)
    state_dict["optimizer"] = np.zeros(1, np.float32)
    state_dict["final_conv.bias"] = np.zeros(4, np.float32)
    state_dict["mid_block1.mlp.1.weight"] = state_dict["mid_block1.mlp.1.weight"][:, :-1]
    with pytest.raises(ValueError, match="does not fit part 'unet'") as error:
        from_reference(state_dict, "unet")
    message = str(error.value)
    assert "2 missing: final_conv.weight; time_mlp.1.bias" in message
    assert "2 unexpected: module.extra; optimizer" in message
    assert "2 misshapen: final_conv.bias: (4,), expected (3,); mid_block1.mlp.1.weight" in message
    assert f"{total - 4} of {total} keys fit" in message


def test_a_transposed_matrix_is_misshapen(state_dict):
    state_dict["time_mlp.1.weight"] = state_dict["time_mlp.1.weight"].T
    with pytest.raises(ValueError, match=r"1 misshapen: time_mlp.1.weight: .*32, 128.*128, 32"):
        from_reference(state_dict, "unet")


@pytest.mark.parametrize(
    ("name", "part", "key"),
    [
        ("unet_nf32_noprior", "unet", "mid_block1.mlp.1.weight"),
        ("structure", "structure", "connector.self_attn2.in_proj_weight"),
        ("prior_tiny", "priors", "student.transformer.resblocks.1.mlp.c_fc.weight"),
    ],
)
def test_every_kind_of_damage_is_named(golden_weights, name, part, key):
    whole = golden_weights(name)
    renamed = {f"{k}_old" if k == key else k: v for k, v in whole.items()}
    with pytest.raises(ValueError, match=rf"1 missing: {key}(?s:.)*1 unexpected: {key}_old"):
        from_reference(renamed, part)
    with pytest.raises(ValueError, match=f"1 misshapen: {key}"):
        from_reference(whole | {key: whole[key].T}, part)
    poisoned = whole[key].copy()
    poisoned[0, 0] = np.nan
    with pytest.raises(ValueError, match=rf"not finite:\n  1 with NaN or infinity: {key}$"):
        from_reference(whole | {key: poisoned}, part)


@pytest.mark.parametrize("part", ["structure", "priors", "depth", "segmentation", "clip"])
def test_another_architecture_is_told_from_the_part_asked_for(golden_weights, part):
    with pytest.raises(ValueError, match=r"(?i)(this is no|these are no).*first keys"):
        from_reference(golden_weights("unet_nf32_noprior"), part)


def test_a_file_with_half_of_a_prior_is_reported(golden_weights):
    released = dict(golden_weights("unet_nf32"))
    del released["prompt"]
    with pytest.raises(ValueError, match=r"1 missing: prompt$"):
        from_reference(released, "unet")


@pytest.mark.parametrize("convert", [from_reference, to_reference])
def test_an_unknown_part_is_named(convert):
    with pytest.raises(ValueError, match="part='generator' is unknown; expected one of unet"):
        convert({}, "generator")


def test_an_empty_state_dict_is_no_unet():
    with pytest.raises(ValueError, match=r"'init_conv.weight'.*none at all"):
        from_reference({}, "unet")


def test_a_foreign_state_dict_shows_its_first_keys():
    foreign = {"backbone.layer.weight": np.zeros((2, 2)), "a.bias": np.zeros(2)}
    with pytest.raises(ValueError, match=r"a\.bias, backbone\.layer\.weight"):
        from_reference(foreign, "unet")


def test_a_parameter_without_counterpart_is_named(state_dict):
    params = from_reference(state_dict, "unet")
    params["down_0_block_0"]["gate"] = {"kernel": np.zeros((2, 2), np.float32)}
    with pytest.raises(ValueError, match="down_0_block_0/gate/kernel has no name"):
        to_reference(params, "unet")
