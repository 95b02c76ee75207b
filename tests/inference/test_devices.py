"""Several devices restore what one does: rows of an image, batches, windows."""

import jax
import numpy as np
import pytest

from tpgdiff_jax.distributed.sharding import AXES, make_mesh
from tpgdiff_jax.inference import stepwise
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.models import tpgdiff

RNG = np.random.default_rng(0)
IMAGE = RNG.random((9, 7, 3)).astype(np.float32).repeat(9, 0).repeat(9, 1)  # 81 x 63


def spread(restorer, **sizes):
    mesh = make_mesh({axis: sizes.get(axis, 1) for axis in AXES})
    return Restorer(restorer._model, jax.device_get(restorer._variables), restorer.config, mesh)


@pytest.mark.parametrize("sizes", [{"spatial": 8}, {"data": 2, "spatial": 4}])
def test_an_image_whose_rows_lie_on_several_devices_is_restored_as_on_one(restorer, sizes):
    alone = restorer(IMAGE, seed=3)
    assert np.abs(alone - IMAGE).mean() > 0.01
    np.testing.assert_allclose(spread(restorer, **sizes)(IMAGE, seed=3), alone, atol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "is_whole", "parts"),
    [((8, 1, 1, 1), True, 1), ((4, 1, 1, 2), False, 1), ((4, 1, 2, 1), False, 2)],
)
def test_attention_is_told_of_the_mesh_that_restores_not_of_the_one_that_trained(
    restorer, sizes, is_whole, parts
):
    """A GPU's flash kernel takes whole images and heads only."""
    for trained_on in ({}, {"spatial": 4}):
        config = restorer.config.copy_and_resolve_references()
        config.mesh.update(trained_on)
        mesh = make_mesh(dict(zip(AXES, sizes, strict=True)))
        many = Restorer(tpgdiff.build(config), {"params": {}}, config, mesh, "fingerprint")
        unet = many._model.unet
        assert (unet.whole, unet.head_parts) == (is_whole, parts)


def test_rows_lie_on_several_devices_in_the_network(restorer, monkeypatch):
    """Every convolution of the compiled program sees an eighth of the rows, and halos travel."""
    many = spread(restorer, spatial=8)
    programs = []
    run = stepwise.advance

    def spy(*args, **options):
        programs.append(run.lower(*args, **options).compile().as_text())
        return run(*args, **options)

    monkeypatch.setattr("tpgdiff_jax.inference.stepwise.advance", spy)
    many(IMAGE)
    lines = [line for line in programs[0].splitlines() if " convolution(" in line]
    full_width = [line for line in lines if ",16]" in line.split("=")[1].split("{")[0]]
    assert full_width
    # 128 rows in eighths, and the rows that a 3x3 kernel needs from the neighbours.
    assert not any("[1,128,64" in line for line in full_width)
    assert "collective-permute" in programs[0]


def test_a_batch_that_lies_on_several_devices_is_restored_as_on_one(restorer):
    images = [IMAGE, IMAGE[::-1], IMAGE[:, ::-1]]
    many = spread(restorer, data=8)
    for found, image in zip(many(images, seed=3), images, strict=True):
        np.testing.assert_allclose(found, restorer(image, seed=3), atol=1e-4)


def test_windows_that_lie_on_several_devices_are_restored_as_on_one(restorer):
    alone = restorer(IMAGE, tile=64, windows=3)  # of two windows, so one does not count
    many = spread(restorer, data=4, spatial=2)
    np.testing.assert_allclose(many(IMAGE, tile=64), alone, atol=1e-4)
