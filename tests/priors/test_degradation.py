"""The degradation prior and its losses, against the released program and PyTorch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.backbones.vit import ClipImageTower
from tpgdiff_jax.checkpoints.convert import convert
from tpgdiff_jax.priors.degradation import (
    DegradationPrior,
    GegluBlock,
    accuracy,
    class_probabilities,
    classification_loss,
    named_probabilities,
)

GOLDEN = [("prior_tiny", 2), ("prior_vitb32", 12)]
TOWER = ClipImageTower(patch=8, width=32, layers=1, heads=2, image_size=16, features=24)


@pytest.mark.parametrize(("name", "heads"), GOLDEN)
def test_features_and_logits_of_the_released_program(
    golden, golden_weights, assert_near, name, heads
):
    arrays = golden(name)
    converted = convert(golden_weights(name), "priors", {"num_attention_heads": heads})
    network = converted.modules["degradation"]
    assert (network.num_classes, network.blocks) == (5, 2)
    features, logits = jax.jit(network.apply)(
        {"params": converted.params["degradation"]}, arrays["lq"].astype(np.float32)
    )
    assert_near(features, arrays["degradation_features"], 1e-4)
    assert_near(logits, arrays["deg_logits"], 1e-4)
    loss = classification_loss(logits, jnp.asarray(arrays["label"])).mean()
    np.testing.assert_allclose(loss, arrays["deg_loss"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 0.3])
def test_the_loss_of_one_degradation_is_pytorchs(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, label = 5 * rng.standard_normal((7, 5)).astype(np.float32), rng.integers(0, 5, 7)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(label), label_smoothing=smoothing, reduction="none"
    )
    ours = classification_loss(jnp.asarray(logits), jnp.asarray(label), smoothing=smoothing)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.01, 0.3])
def test_the_loss_of_several_degradations_is_pytorchs(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    logits = 5 * rng.standard_normal((7, 5)).astype(np.float32)
    rows = rng.integers(0, 2, (7, 5)).astype(np.float32)
    target = torch.tensor(rows) * (1 - smoothing) + smoothing / 2
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), target, reduction="none"
    ).mean(dim=1)
    ours = classification_loss(logits, jnp.asarray(rows, int), kind="multi", smoothing=smoothing)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_rows_with_one_degradation_equal_its_number(kind):
    rng = np.random.default_rng(2)
    logits = jnp.asarray(rng.standard_normal((6, 4)), jnp.float32)
    label = jnp.array([0, 1, 2, 3, 3, 1])
    by_number = classification_loss(logits, label, kind=kind)
    for dtype in (jnp.int32, jnp.float32, bool):
        rows = jax.nn.one_hot(label, 4).astype(dtype)
        np.testing.assert_array_equal(classification_loss(logits, rows, kind=kind), by_number)
    assert by_number.shape == (6,)


def test_an_example_of_no_class_teaches_a_single_answer_nothing():
    logits = jnp.array([[3.0, -1.0, 0.5], [0.0, 2.0, 1.0]])
    loss, gradient = jax.value_and_grad(
        lambda logits: classification_loss(logits, jnp.array([3, 1])).sum()
    )(logits)
    np.testing.assert_array_equal(gradient[0], 0)
    np.testing.assert_array_equal(loss, classification_loss(logits[1:], jnp.array([1]))[0])
    assert np.abs(gradient[1]).min() > 0


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_extreme_logits_keep_loss_and_gradient_finite(kind):
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]])

    def total(logits):
        return classification_loss(logits, jnp.array([0, 0]), kind=kind).sum()

    loss, gradient = jax.value_and_grad(total)(logits)
    assert jnp.isfinite(loss)
    assert jnp.isfinite(gradient).all()
    assert loss > 1e3


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match=r"priors\.classification='many' is unknown.*single, mult"):
        classification_loss(jnp.zeros((1, 2)), jnp.array([0]), kind="many")


def test_accuracy_counts_right_answers():
    logits = jnp.array([[2.0, -1.0, 0.5], [-3.0, -2.0, -1.0]])
    assert accuracy(logits, jnp.array([0, 2])) == 1
    assert accuracy(logits, jnp.array([2, 2])) == 0.5
    assert accuracy(logits, jnp.array([[1, 0, 1], [0, 0, 0]])) == 1
    assert accuracy(logits, jnp.array([[1, 0, 0], [0, 1, 1]])) == pytest.approx(0.5)


def test_probabilities_are_of_one_class_or_of_each():
    logits = jnp.array([[0.0, np.log(3.0)], [100.0, 100.0]])
    np.testing.assert_allclose(class_probabilities(logits), [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)
    several = class_probabilities(logits, "multi")
    np.testing.assert_allclose(several, [[0.5, 0.75], [1, 1]], rtol=1e-6)
    assert class_probabilities(logits.astype(jnp.bfloat16)).dtype == jnp.float32
    named = named_probabilities(logits[0], ("rain", "haze"), "single")
    assert list(named.items()) == [("haze", pytest.approx(0.75)), ("rain", pytest.approx(0.25))]


@pytest.fixture(scope="module")
def small(random_params):
    network = DegradationPrior(TOWER, num_classes=3, dropout=0.5)
    view = jnp.asarray(np.random.default_rng(3).standard_normal((2, 16, 16, 3)), jnp.float32)
    return network, random_params(network, view), view


def test_dropout_acts_in_training_only(small):
    network, params, view = small

    @jax.jit
    def trained(key):
        return network.apply({"params": params}, view, False, rngs={"dropout": key})

    features, logits = network.apply({"params": params}, view)
    np.testing.assert_array_equal(
        network.apply({"params": params}, view, True, rngs={"dropout": jax.random.key(1)})[1],
        logits,
    )
    first, again, other = (trained(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[1], again[1])
    assert np.abs(first[1] - other[1]).max() > 0.01
    assert np.abs(first[1] - logits).max() > 0.01
    # It acts in the head; what stage two reads has none.
    np.testing.assert_allclose(first[0], features, rtol=1e-5, atol=1e-6)
    with pytest.raises(Exception, match="dropout"):
        network.apply({"params": params}, view, False)


def test_dropout_keeps_the_mean():
    block = GegluBlock(dropout=0.25)
    x = jnp.asarray(np.random.default_rng(4).standard_normal((1, 16)), jnp.float32)
    params = block.init(jax.random.key(0), x)
    keys = jax.random.split(jax.random.key(1), 4000)
    draws = jax.vmap(lambda key: block.apply(params, x, False, rngs={"dropout": key}))(keys)
    still = block.apply(params, x)
    error = 5 * draws.std(axis=0) / np.sqrt(len(keys))
    assert (error > 0).all()
    assert (np.abs(draws.mean(axis=0) - still) <= error).all()


def test_a_head_without_blocks_is_linear(small):
    _, _, view = small
    network = DegradationPrior(TOWER, num_classes=3, blocks=0)
    variables = network.init(jax.random.key(0), view)
    assert variables["params"].keys() == {"backbone", "classes"}
    features, logits = network.apply(variables, view)
    dense = nn.Dense(3).apply({"params": variables["params"]["classes"]}, features)
    np.testing.assert_allclose(logits, dense, rtol=1e-6)
    assert features.shape == (2, TOWER.features)
