"""The system as a whole: which of its networks learn, and which are frozen."""

import jax
import pytest

from tpgdiff_jax.config import base_config
from tpgdiff_jax.models import tpgdiff


def test_the_networks_that_learn_are_those_of_the_parameters(tiny_system):
    names = tpgdiff.trained_networks(tiny_system.model).keys()
    assert names == tiny_system.variables["params"].keys() == set(tpgdiff.TRAINED)


def test_networks_that_a_system_lacks_do_not_learn():
    config = base_config()
    config.priors.encoder = "clip"
    config.model.use_structure = False
    model = tpgdiff.build(config)
    assert tpgdiff.trained_networks(model) == {"unet": model.unet}
    assert tpgdiff.frozen_networks(model).keys() == {"semantic", "degradation"}
    assert not jax.tree.leaves(tpgdiff.trained_networks(tpgdiff.TPGDiff(unet=None)))


@pytest.mark.parametrize(
    ("mesh", "whole"),
    [({}, True), ({"data": 4, "fsdp": 2}, True), ({"tensor": 2}, False), ({"spatial": 2}, False)],
)
def test_devices_have_images_and_heads_whole_unless_the_mesh_splits_them(mesh, whole):
    config = base_config()
    config.mesh.update(mesh)
    assert tpgdiff.build_unet(config).whole == whole


def test_frozen_networks_of_cues_know_it_too_and_so_does_a_system_laid_over_devices():
    config = base_config()
    config.priors.encoder, config.priors.cues = "none", ("depth", "segmentation", "dog")
    config.model.unet = "lean"
    model = tpgdiff.build(config)

    def whole(model):
        trunk = [net.whole for net in tpgdiff.cue_nets(model).values()]
        assert len(trunk) == 2
        return trunk

    assert whole(model) == [True, True]
    split = tpgdiff.laid_over(model, spatial=2)
    assert whole(split) == [False, False]
    assert whole(tpgdiff.laid_over(split)) == [True, True]
    config.mesh.spatial = 2
    assert whole(tpgdiff.build(config)) == [False, False]
