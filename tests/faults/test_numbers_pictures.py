"""Pictures without contrast, of one pixel, of other number types: finite, and always the same."""

import itertools

import jax
import numpy as np
import pytest

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.data.degradations.mix import Recipe, degrade
from tpgdiff_jax.data.degradations.registry import DEGRADATIONS
from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.evaluation import metrics, protocols
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.priors.cues import difference_of_gaussians, gradient_magnitude
from tpgdiff_jax.reporting.errors import UserError

FLAT = {
    "black": np.zeros((24, 20, 3), np.uint8),
    "white": np.full((24, 20, 3), 255, np.uint8),
    "grey": np.full((24, 20, 3), 128, np.uint8),
    "red": np.tile(np.array([255, 0, 0], np.uint8), (24, 20, 1)),
}
TINY = {f"{h}x{w}": np.full((h, w, 3), 90, np.uint8) for h, w in ((1, 1), (1, 9), (9, 1), (2, 2))}


@pytest.fixture(scope="module")
def restorer(tiny_system):
    """A `Restorer` of a tiny system with random weights: 2 steps, all three priors."""
    return Restorer(tiny_system.model, tiny_system.variables, tiny_system.config)


@pytest.mark.parametrize("name", [*FLAT, *TINY])
def test_a_picture_without_contrast_is_restored_to_numbers(restorer, name):
    """Cues are scaled by their largest value, which is 0 here; norms divide by a deviation of 0."""
    image = (FLAT | TINY)[name]
    found = restorer(image, seed=1)
    assert found.shape == image.shape
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, restorer(image, seed=1))
    as_floats = restorer(image / 255, seed=1)
    assert as_floats.dtype == np.float64
    assert np.isfinite(as_floats).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floats_of_every_width_are_one_picture(restorer, dtype):
    """These values are exact in every width, so that results may differ by rounding alone."""
    image = (np.arange(20 * 24 * 3).reshape(20, 24, 3) % 129 / 128).astype(dtype)
    found = restorer(image, seed=1)
    assert found.dtype == dtype
    apart = np.abs(found.astype(np.float64) - restorer(image.astype(np.float32), seed=1))
    assert apart.max() <= np.finfo(np.float16).eps


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5, -0.5])
def test_one_value_that_is_no_pixel_is_refused(restorer, dtype, value):
    image = np.full((9, 9, 3), 0.5, dtype)
    image[4, 4, 1] = value
    with pytest.raises(UserError, match=r"outside \[0, 1\], or not finite"):
        restorer(image)
    with pytest.raises(UserError, match=r"outside \[0, 1\], or not finite"):
        restorer.degradations(image)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp", ".bmp"])
def test_one_pixel_is_written_and_read_in_every_format(restorer, tmp_path, suffix):
    write_image(tmp_path / f"dot{suffix}", TINY["1x1"])
    found = restorer(tmp_path / f"dot{suffix}", seed=1)
    assert found.shape == (1, 1, 3)


def test_weights_that_are_no_numbers_are_named_where_they_show(tiny_system, tmp_path):
    """NaN may come into a file on a broken disk; no picture is ever made of it."""
    weights = jax.tree.map(np.array, dict(tiny_system.variables["params"]))
    weights["unet"]["final_conv"]["bias"][...] = np.nan
    path = tmp_path / "nan.safetensors"
    published.save(path, weights, published.describe(tiny_system.config))
    restorer = Restorer.load(path, compile_cache=False)
    for image in (FLAT["grey"], FLAT["grey"] / 255):
        with pytest.raises(UserError, match="not finite"):
            restorer(image)
        (restored,) = restorer.iterate([image])
        assert restored.image is None


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_of_a_picture_without_contrast_is_one(name):
    """Also of one pixel, at the ends of the severity, always the same."""
    for image, severity in itertools.product((FLAT | TINY).values(), (0.0, 1e-6, 5.0)):
        recipe = Recipe(((name, severity),), seed=7)
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            degraded = degrade(image, recipe)
        assert degraded.shape == image.shape
        assert degraded.dtype == np.uint8
        np.testing.assert_array_equal(degraded, degrade(image, recipe))
        if severity == 0:
            np.testing.assert_array_equal(degraded, image)


def test_cues_of_a_picture_without_contrast_are_numbers():
    for image in (*FLAT.values(), TINY["1x1"]):
        for cue in (difference_of_gaussians, gradient_magnitude):
            found = np.asarray(cue(image[None].astype(np.float32) / 255))
            assert np.isfinite(found).all()
            assert np.abs(found).max() <= 1


@pytest.mark.faults
@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_scores_of_pictures_without_contrast_are_numbers_or_infinite(name):
    protocol = protocols.PROTOCOLS[name]
    images = {key: np.resize(image[0, 0], (64, 64, 3)) for key, image in FLAT.items()}
    for (one, a), (other, b) in itertools.product(images.items(), repeat=2):
        shown = protocols.as_scored(protocol, a[None] / np.float32(255))
        found = protocols.scores(protocol, shown, b[None], np.array([[64, 64]]))
        for key, value in found.items():
            value = float(value[0])
            assert not np.isnan(value), (one, other, key)
            assert key.startswith("psnr") or -1 <= value <= 1 + 1e-6
            if one == other:
                assert value > 80 if key.startswith("psnr") else value > 1 - 1e-4


def test_equal_pictures_have_an_infinite_psnr_and_never_nan():
    for image in FLAT.values():
        assert float(metrics.psnr(image[None], image[None])[0]) == np.inf
