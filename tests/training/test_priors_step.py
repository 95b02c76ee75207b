"""Stage one's training step: the released program's numbers, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tpgdiff_jax.backbones.vgg import Vgg16
from tpgdiff_jax.checkpoints.convert import convert, to_reference
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.config import base_config
from tpgdiff_jax.models.stage_one import StageOne, build_stage_one
from tpgdiff_jax.priors.semantic import SemanticPrior
from tpgdiff_jax.training.priors_step import loss_fn, loss_of_views
from tpgdiff_jax.training.state import create_state, make_optimizer
from tpgdiff_jax.training.step import train_step


@pytest.fixture(scope="module")
def released(golden, golden_weights):
    """The released program's tiny stage one: networks, weights, inputs and its answers."""
    arrays = golden("prior_tiny")
    converted = convert(golden_weights("prior_tiny"), "priors", {"num_attention_heads": 2})
    modules, weights = converted.modules, converted.params
    networks = StageOne(
        SemanticPrior(modules["student"]), modules["degradation"], modules["teacher"]
    )
    params = {
        "semantic": {"student": weights["student"]},
        "degradation": weights["degradation"],
    }
    return networks, params, weights["teacher"], arrays


def test_losses_and_gradients_of_the_released_program(released):
    networks, params, teacher, arrays = released

    def total(params, teacher):
        views = jnp.asarray(arrays["gt"]), jnp.asarray(arrays["lq"])
        label = jnp.asarray(arrays["label"])
        return loss_of_views(
            params, teacher, *views, label, None, networks=networks, config=base_config()
        )

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (loss, metrics), (gradient, into_teacher) = run(params, teacher)
    assert float(loss) == pytest.approx(float(arrays["total_loss"]), rel=1e-3)
    assert metrics["loss"] == loss
    expected = {"distillation": "content_loss", "classification": "deg_loss"}
    for ours, theirs in expected.items():
        assert float(metrics[ours]) == pytest.approx(float(arrays[theirs]), rel=1e-4), ours
    right = (arrays["deg_logits"].argmax(axis=1) == arrays["label"]).mean()
    assert float(metrics["accuracy"]) == pytest.approx(right)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(into_teacher))
    named = {
        "teacher": into_teacher,
        "student": gradient["semantic"]["student"],
        "degradation": gradient["degradation"],
    }
    norms = {key: np.linalg.norm(value) for key, value in to_reference(named, "priors").items()}
    assert len(arrays["grad_keys"]) == 13
    found = [norms[key] for key in arrays["grad_keys"]]
    np.testing.assert_allclose(found, arrays["grad_norms"], rtol=1e-3)


def tiny(**priors):
    """The configuration of a tiny stage one: 32-pixel views, three degradations."""
    config = base_config()
    sizes = {"patch": 8, "width": 32, "layers": 1, "heads": 2, "image_size": 32, "features": 64}
    config.priors.clip.update(sizes)
    config.priors.update(priors)
    config.data.degradations = ("noise", "blur", "haze")
    config.optim.update({"steps": 60, "learning_rate": 1e-3})
    config.ema.update({"every_steps": 1, "start_step": 2})
    return config


@pytest.fixture(scope="module")
def stage_one(random_params):
    """Networks, random weights of student and classifier, and of the teacher."""
    networks = build_stage_one(tiny())
    view = jnp.zeros((1, 32, 32, 3))
    params = {
        "semantic": random_params(networks.semantic, view),
        "degradation": random_params(networks.degradation, view, seed=1),
    }
    return networks, params, random_params(networks.teacher, view, seed=2)


@pytest.fixture(scope="module")
def training(stage_one):
    """The first state and the compiled step."""
    config = tiny()
    optimizer = make_optimizer(config.optim)
    loss = functools.partial(loss_fn, networks=stage_one[0], config=config)
    step = functools.partial(train_step, loss_fn=loss, optimizer=optimizer, config=config)
    make = jax.jit(lambda params: create_state(params, optimizer))
    return make(stage_one[1]), jax.jit(step)


def batch_of(seed=0, count=8):
    """Smooth clean crops, and degraded ones each of whose classes looks its own way."""
    rng = np.random.default_rng(seed)
    gt = np.repeat(np.repeat(rng.integers(0, 256, (count, 5, 5, 3)), 8, 1), 8, 2)
    label = np.arange(count, dtype=np.int32) % 3
    noise = rng.normal(0, 60, gt.shape) * (label == 0).reshape(-1, 1, 1, 1)
    haze = np.where(label == 2, 0.3, 1.0).reshape(-1, 1, 1, 1)
    lq = np.clip(255 + haze * (gt - 255) + noise, 0, 255)
    return {"gt": gt.astype(np.uint8), "lq": lq.astype(np.uint8), "label": label}


def test_steps_on_one_batch_lower_both_losses(stage_one, training):
    state, step = training
    history = []
    for _ in range(25):
        before = state
        state, metrics = step(state, stage_one[2], batch_of(), jax.random.key(0))
        history.append({name: float(value) for name, value in metrics.items()})
    reported = {"loss", "distillation", "classification", "accuracy"}
    assert history[0].keys() == reported | {"gradient_norm", "parameter_norm", "bad_step"}
    for name in ("distillation", "classification"):
        assert history[-1][name] < 0.5 * history[0][name], name
    assert int(state.step) == 25
    # The average follows every parameter, the student's and the classifier's alike.
    before, state = jax.device_get((before, state))
    kept = 1 - (1 + 24 - tiny().ema.start_step) ** (-2 / 3)
    expected = jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, before.ema, state.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state.ema, expected)
    pairs = zip(*map(jax.tree.leaves, (state.ema, stage_one[1])), strict=True)
    assert all((a != b).any() for a, b in pairs)


def test_dropout_depends_on_key_and_step_alone(stage_one, training):
    state, step = training
    later = state.replace(step=state.step + 1)

    def loss(state, seed):
        metrics = step(state, stage_one[2], batch_of(), jax.random.key(seed))[1]
        return float(metrics["classification"])

    assert loss(state, 0) == loss(state, 0)
    assert loss(state, 0) != loss(state, 1)
    assert loss(state, 0) != loss(later, 0)


def test_several_degradations_at_once_have_a_sigmoid_each(stage_one):
    networks, params, teacher = stage_one
    config, batch = tiny(classification="multi"), batch_of()
    gt, lq = (jnp.asarray(batch[name][:, :32, :32] / 255, jnp.float32) for name in ("gt", "lq"))
    rows = jnp.asarray(np.random.default_rng(0).integers(0, 2, (8, 3)))
    options = {"networks": networks, "config": config}
    loss, metrics = loss_of_views(params, teacher, gt, lq, rows, None, **options)
    _, logits = networks.degradation.apply({"params": params["degradation"]}, lq)
    target = np.where(rows, 1 - 0.005, 0.005)
    probability = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    entropy = -(target * np.log(probability) + (1 - target) * np.log(1 - probability)).mean()
    assert float(metrics["classification"]) == pytest.approx(entropy, rel=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(((probability > 0.5) == rows).mean())
    assert float(loss) == pytest.approx(float(metrics["distillation"]) + entropy, rel=1e-4)


def test_init_draws_two_different_towers(stage_one):
    networks = stage_one[0]
    params = jax.jit(networks.init)(jax.random.key(0))
    towers = params["semantic"]["student"], params["degradation"]["backbone"]
    kernels = [tower["trunk"]["patches"]["kernel"] for tower in towers]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01
    assert networks.degradation.num_classes == 3


def test_the_vgg_teacher_gives_a_loss_of_the_same_kind():
    config = tiny(teacher="vgg")
    config.priors.clip.features = 512
    networks = build_stage_one(config)
    assert isinstance(networks.teacher, Vgg16)
    params = jax.eval_shape(networks.init, jax.random.key(0))
    view = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    label = jax.ShapeDtypeStruct((2,), jnp.int32)
    loss = functools.partial(loss_of_views, networks=networks, config=config)
    value, metrics = jax.eval_shape(
        lambda params, teacher, view, label: loss(params, teacher, view, view, label, None),
        params,
        abstract_params(networks.teacher),
        view,
        label,
    )
    assert value.shape == ()
    assert metrics.keys() == {"loss", "distillation", "classification", "accuracy"}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_leaves_gains_and_biases_alone(stage_one, name):
    config, params = tiny(), stage_one[1]
    config.optim.update({"name": name, "weight_decay": 0.1, "learning_rate": 0.01})
    optimizer = make_optimizer(config.optim)
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zero, optimizer.init(params), params)
    flat, updates = flatten_dict(params), flatten_dict(updates)
    assert {leaf.ndim for leaf in flat.values()} == {1, 2, 4}
    for path, leaf in flat.items():
        # Muon decays the matrices, AdamW tables of positions, too.
        decays = leaf.ndim > 1 if name == "adamw" else path[-1] == "kernel"
        factor = -1e-3 if decays else 0.0
        np.testing.assert_allclose(updates[path], factor * leaf, rtol=1e-5, err_msg=str(path))
