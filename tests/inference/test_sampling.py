"""How images are restored is checked once, most of it before there are weights."""

import pytest

from tpgdiff_jax.config import base_config
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.reporting.errors import UserError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples=0 must be a whole number, at least 1"),
        ({"samples": 2.0}, r"samples=2\.0 must be a whole number"),
        ({"windows": -1}, "windows=-1 must be a whole number, at least 1"),
        ({"passes": 0}, "passes=0 must be a whole number, at least 1"),
        ({"ensemble": 3}, "ensemble=3 must be 1, 2 or 4"),
        ({"ensemble": True}, "ensemble=True must be 1, 2 or 4"),
        ({"seed": -1}, "seed=-1 must be a whole number, at least 0"),
        ({"seed": 2**32}, "seed=4294967296 must be a whole number from 0 to 4294967295"),
        ({"tile": 63}, "tile=63 must be 0"),
        ({"tile": -64}, "tile=-64 must be 0"),
        ({"tile": 100.5}, r"tile=100\.5 must be 0"),
        ({"tile": "768"}, "tile='768' must be 0"),
        ({"clamp": "no"}, "clamp='no' must be True or False"),
        ({"exact_size": None}, "exact_size=None must be True or False"),
        ({"sampler": ["ode2"]}, r"sampler=\['ode2'\] must be a sampler's name"),
        ({"guidance": [1]}, r"guidance=\[1\] must name branches"),
        ({"guidance": "semantic=2"}, "guidance='semantic=2' must name branches"),
    ],
)
def test_what_no_weights_could_do_is_refused_at_once(options, words):
    with pytest.raises(UserError, match=words):
        Sampling(**options)


def test_the_weights_decide_what_is_left_open():
    config = base_config()
    with config.unlocked():
        config.eval.update({"sampler": "ode2", "steps": 7, "clamp": True})
        config.model.dropout_semantic = 0.1
    sde = IRSDE(**config.diffusion)
    found = Sampling(seed=3).checked(config, sde)
    assert (found.sampler, found.steps, found.clamp) == ("ode2", 7, True)
    assert (found.seed, found.guidance) == (3, {})
    own = Sampling(steps=2, sampler="sde2", clamp=False, guidance={"semantic": 2})
    found = own.checked(config, sde)
    assert (found.sampler, found.steps, found.clamp) == ("sde2", 2, False)
    assert found.as_logged() == {
        **{"steps": 2, "sampler": "sde2", "seed": 0, "tile": None, "windows": 1},
        **{"guidance": {"semantic": 2.0}, "samples": 1, "ensemble": 1, "passes": 1},
        "exact_size": False,
    }
    for options, words in (
        ({"sampler": "ddim"}, "ddim"),
        ({"steps": 0}, "steps=0"),
        ({"guidance": {"semantics": 1}}, "'semantics' is no branch"),
        ({"guidance": {"semantic": "2"}}, "guidance: semantic='2' must be 0 or more"),
        ({"guidance": {"semantic": None}}, "guidance: semantic=None must be 0 or more"),
    ):
        with pytest.raises(UserError, match=words):
            Sampling(**options).checked(config, sde)
    with pytest.raises(UserError, match="cannot share an image's rows"):
        Sampling(exact_size=True).checked(config, sde, spatial=2)
