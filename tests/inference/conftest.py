"""A tiny system, with weights that do something."""

import jax.numpy as jnp
import pytest

from tpgdiff_jax.config import base_config
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.models import tpgdiff


@pytest.fixture(scope="session")
def restorer(random_params):
    """A `Restorer` of a tiny system with random weights: 2 steps, two degradations."""
    config = base_config()
    config.model.update({"width": 16, "multipliers": (2, 2), "attention_heads": 1, "head_dim": 16})
    config.model.update({"prediction": "v", "identity_init": True, "use_semantic": False})
    config.priors.update({"encoder_width": 4, "map_size": 16, "map_width": 2, "map_max_width": 4})
    config.priors.update({"tokens": 4, "connector_depth": 0})
    config.data.degradations = ("noise", "haze")
    config.eval.steps = 2
    model = tpgdiff.build(config)
    image = jnp.zeros((1, 16, 16, 3))
    params = random_params(model, image, image, jnp.ones(1))
    params["unet"]["final_conv"]["kernel"] *= 0.05
    return Restorer(model, {"params": params, "frozen": {}}, config)
