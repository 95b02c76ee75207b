"""The structural prior: its maps, its cues, its tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.backbones.depth_anything import DepthAnything, depth_input, normalised_depth
from tpgdiff_jax.backbones.segformer import SegFormer, segmentation_input, segmentation_map
from tpgdiff_jax.checkpoints.convert import from_reference, to_reference
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.config import base_config
from tpgdiff_jax.planning.collectives import KINDS
from tpgdiff_jax.priors.cues import CUES, gradient_magnitude
from tpgdiff_jax.priors.structural import (
    MapEncoder,
    StructuralPrior,
    difference_of_gaussians,
    resize_maps,
)

SMALL = {
    "image_size": 16,
    "encoder_width": 4,
    "encoder_max_width": 8,
    "features": 16,
    "num_latents": 4,
    "connector_depth": 1,
}
DEPTH_NET = DepthAnything(**base_config().priors.depth_net).clone(
    width=16, layers=4, heads=2, image_size=28, taps=(1, 2, 3, 4), neck=(4, 4, 4, 4), fusion=8
)
SEGMENTATION_NET = SegFormer(**base_config().priors.segmentation_net).clone(
    widths=(8, 8), depths=(1, 1), heads=(1, 2), reductions=(2, 1), decoder=8
)


@pytest.mark.parametrize("size", [64, 256])
def test_difference_of_gaussians_of_the_released_program(golden, assert_near, size):
    arrays = golden(f"structure_{size}")
    assert_near(difference_of_gaussians(arrays["lq"]), arrays["dog"], 1e-5)


@pytest.mark.parametrize("size", [64, 256])
def test_tokens_of_the_released_program(golden, golden_weights, assert_near, size):
    arrays = golden(f"structure_{size}")
    params = from_reference(golden_weights("structure"), "structure")
    prior = StructuralPrior(image_size=size)
    tokens = jax.jit(prior.apply)({"params": params}, arrays["lq"], arrays["depth"], arrays["seg"])
    assert_near(tokens, arrays["tokens"], 1e-4)


def test_weights_survive_the_way_there_and_back(golden_weights):
    released = golden_weights("structure")
    back = to_reference(from_reference(released, "structure"), "structure")
    assert back.keys() == released.keys()
    for key, value in released.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_the_map_encoder_starts_without_losing_what_it_sees():
    maps = jax.random.normal(jax.random.key(0), (4, 64, 64, 1))
    encoder = MapEncoder(width=8, max_width=64)
    for seed in range(3):
        features, _ = encoder.init_with_output(jax.random.key(seed), maps)
        assert 0.2 < jnp.sqrt(jnp.square(features).mean()) < 5


def test_difference_of_gaussians_sees_edges_and_no_brightness():
    image = jnp.full((2, 24, 24, 3), 0.25).at[1, :, 12:].set(0.75)
    maps = difference_of_gaussians(image)
    assert maps.shape == (2, 24, 24, 1)
    inside = np.asarray(maps[:, 4:-4, 4:-4, 0])  # borders count zeros as pixels
    np.testing.assert_allclose(inside[0], 0, atol=1e-5)
    assert (inside[1, :, 7] < -0.01).all()
    assert (inside[1, :, 8] > 0.01).all()


def test_the_gradient_of_a_flat_image_is_zero():
    flat = jnp.broadcast_to(jnp.array([0.2, 0.7, 0.4]), (1, 9, 7, 3))
    np.testing.assert_array_equal(gradient_magnitude(flat), jnp.zeros((1, 9, 7, 1)))


def test_the_gradient_of_an_edge_is_1_beside_it_and_0_elsewhere():
    edge = jnp.full((1, 8, 10, 3), 0.3).at[:, :, 6:].set(0.5)
    expected = np.zeros((1, 8, 10, 1))
    expected[:, :, 5:7] = 1
    np.testing.assert_allclose(gradient_magnitude(edge), expected, atol=1e-5)
    np.testing.assert_allclose(
        gradient_magnitude(edge.transpose(0, 2, 1, 3)), expected.transpose(0, 2, 1, 3), atol=1e-5
    )


def test_the_gradient_is_sobels():
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).random((2, 12, 9, 3)).astype(np.float32)
    luma = torch.tensor(images @ np.array([0.299, 0.587, 0.114], np.float32))[:, None]
    luma = torch.nn.functional.pad(luma, (1, 1, 1, 1), "replicate")
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([kernel, kernel.T])[:, None]
    magnitude = torch.nn.functional.conv2d(luma, kernels).norm(dim=1).numpy()
    expected = magnitude / magnitude.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(gradient_magnitude(images)[..., 0], expected, atol=1e-5)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(1).random((2, 32, 40, 3)), jnp.float32)


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(2)
    shape = (2, 10, 10, 1)
    labels = rng.integers(0, 150, shape) / 149
    return {
        "depth": jnp.asarray(rng.random(shape), jnp.float32),
        "segmentation": jnp.asarray(labels, jnp.float32),
    }


@pytest.fixture(scope="module")
def lively_params(random_params):
    """`lively_params(prior, *inputs)` -> random parameters that let maps through at full size."""

    def draw(*inputs):
        params = random_params(*inputs)
        for layer in params["encoder"].values():  # twelve ReLUs halve the variance each
            layer["kernel"] = layer["kernel"] * 2**0.5
        return params

    return draw


@pytest.fixture(scope="module")
def params(lively_params, images, maps):
    """Weights that fit any choice of cues."""
    return lively_params(StructuralPrior(CUES, **SMALL), images, *maps.values())


@pytest.mark.parametrize("cue", CUES)
def test_each_cue_works_alone_and_is_used(lively_params, images, maps, cue):
    prior = StructuralPrior((cue,), **SMALL)
    given = {cue: maps[cue]} if cue in maps else {}
    params = lively_params(prior, images, *(given.get(name) for name in maps))
    assert ("modality_gradient" in params) == (cue == "gradient")
    apply = jax.jit(prior.apply)
    tokens = apply({"params": params}, images, **given)
    assert tokens.shape == (2, 4, 16)
    assert tokens.dtype == jnp.float32
    assert jnp.isfinite(tokens).all()
    # A map with something new in it gives new tokens; what is no cue changes nothing.
    other = {name: 1 - value for name, value in given.items()}
    changed = apply({"params": params}, images if given else images[:, ::-1] ** 2, **other)
    assert np.abs(changed - tokens).max() > 1e-2
    spare = {name: value for name, value in maps.items() if name not in given}
    again = apply({"params": params}, images, **given, **spare)
    np.testing.assert_allclose(again, tokens, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("cues", "rows"), [(("dog",), {2}), (("segmentation", "gradient"), {1, "gradient"})]
)
def test_each_cue_reads_its_own_embedding(images, maps, params, cues, rows):
    """Released cues have rows in one table, whichever others there are; ours stands alone."""
    assert params["modality"].shape == (3, 16)
    assert params["modality_gradient"].shape == (16,)
    prior = StructuralPrior(cues, **SMALL)
    given = {name: value for name, value in maps.items() if name in cues}

    def total(params):
        return jnp.sin(prior.apply({"params": params}, images, **given)).sum()

    gradient = jax.jit(jax.grad(total))(params)
    found = {row for row in range(3) if jnp.abs(gradient["modality"][row]).max() > 1e-6}
    if jnp.abs(gradient["modality_gradient"]).max() > 1e-6:
        found.add("gradient")
    assert found == rows


def test_the_order_of_cues_does_not_matter(images, maps, params):
    tokens = [
        jax.jit(StructuralPrior(cues, **SMALL).apply)({"params": params}, images, maps["depth"])
        for cues in (("depth", "dog", "gradient"), ("gradient", "dog", "depth"))
    ]
    np.testing.assert_array_equal(*tokens)


@pytest.fixture(scope="module")
def frozen():
    """Random weights of the networks that make maps, large enough for maps with structure."""
    rng = np.random.default_rng(3)

    def fill(path, leaf):
        x = rng.standard_normal(leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        if leaf.ndim == 1:
            x = 0.3 * x + (path[-1].key in ("scale", "var"))
        return jnp.asarray(x, jnp.float32)

    nets = {"depth": DEPTH_NET, "segmentation": SEGMENTATION_NET}
    return jax.tree.map_with_path(fill, abstract_params(nets))


def test_networks_give_the_maps_that_could_be_given_by_hand(images, params, frozen):
    settings = {"cues": ("depth", "segmentation", "dog"), **SMALL}
    with_nets = StructuralPrior(
        depth_net=DEPTH_NET,
        segmentation_net=SEGMENTATION_NET,
        depth_size=42,
        segmentation_size=32,
        **settings,
    )
    depth = normalised_depth(
        jax.jit(DEPTH_NET.apply)({"params": frozen["depth"]}, depth_input(images, 42))
    )
    segmentation = segmentation_map(
        jax.jit(SEGMENTATION_NET.apply)(
            {"params": frozen["segmentation"]}, segmentation_input(images, 32)
        )
    )
    assert depth.std() > 0.05
    assert len(np.unique(segmentation)) > 2
    variables = {"params": params, "frozen": frozen}
    apply = jax.jit(StructuralPrior(**settings).apply)
    by_hand = apply({"params": params}, images, depth, segmentation)
    tokens = jax.jit(with_nets.apply)(variables, images)
    np.testing.assert_allclose(tokens, by_hand, rtol=0, atol=1e-5)
    flipped = apply({"params": params}, images, depth[:, ::-1], segmentation)
    assert np.abs(flipped - by_hand).max() > 1e-2
    # Given maps take the networks' place, whose weights are then not asked for.
    run = functools.partial(jax.eval_shape, with_nets.apply, {"params": params}, images)
    assert run(depth, segmentation).shape == tokens.shape
    with pytest.raises(ValueError, match=r"frozen/segmentation \(SegFormer\) are missing"):
        run(depth)


def test_cues_are_checked():
    image = jnp.zeros((1, 16, 16, 3))
    for cues in (("edges",), ()):
        with pytest.raises(ValueError, match=r"priors\.cues"):
            jax.eval_shape(StructuralPrior(cues=cues).init, jax.random.key(0), image)
    for cue in ("depth", "segmentation"):
        with pytest.raises(ValueError, match=f"neither a {cue} map nor a network"):
            jax.eval_shape(StructuralPrior(cues=(cue, "dog")).init, jax.random.key(0), image)


def test_nearest_resize_keeps_labels():
    labels = jnp.arange(12.0).reshape(1, 3, 4, 1)
    resized = resize_maps(labels, 7, "nearest")
    assert set(np.unique(resized)) <= set(np.unique(labels))
    assert resized.shape == (1, 7, 7, 1)


@pytest.mark.parametrize("method", ["linear", "nearest"])
@pytest.mark.parametrize("size", [5, 13, 24])
def test_maps_are_resized_as_in_pytorch(method, size):
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(4).random((2, 12, 9, 1)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(maps).permute(0, 3, 1, 2),
        (size, size),
        mode={"linear": "bilinear", "nearest": "nearest"}[method],
    )
    ours = resize_maps(jnp.asarray(maps), size, method)
    np.testing.assert_allclose(ours[..., 0], theirs[:, 0], atol=2e-6)


def test_the_gradient_does_not_keep_the_first_features():
    encoder, maps = MapEncoder(width=4, max_width=16, features=16), jnp.ones((2, 32, 32, 1))
    params = encoder.init(jax.random.key(0), maps)["params"]
    _, back = jax.vjp(lambda params: encoder.apply({"params": params}, maps), params)
    kept = {leaf.shape for leaf in jax.tree.leaves(back)}
    assert (2, 32, 32, 8) in kept  # what the second convolution gives
    assert (2, 32, 32, 4) not in kept


def test_devices_exchange_nothing_whatever_the_number_of_cues(make_mesh):
    mesh = make_mesh(data=4)
    prior = StructuralPrior(cues=("dog", "gradient"), **SMALL)
    images = jnp.zeros((8, 32, 32, 3))
    params = jax.eval_shape(prior.init, jax.random.key(0), images)
    spec = jax.sharding.PartitionSpec
    placed = [jax.sharding.NamedSharding(mesh, one) for one in (spec(), spec("data"))]
    step = jax.jit(prior.apply, in_shardings=placed, out_shardings=placed[1])
    text = step.lower(params, images).compile().as_text()
    exchanged = [kind for kind in KINDS if f" {kind}(" in text or f" {kind}-start(" in text]
    assert exchanged == []
