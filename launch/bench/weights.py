"""Random weights for measurements that need no trained ones."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.models import tpgdiff


def random_weights(networks: Any, seed: int = 0) -> Any:
    """Draw weights on the host: nothing is compiled, and activations keep their size.

    Args:
      networks: one of the project's networks, or (nested) name -> network.
      seed: of the draw.

    Returns:
      nested dict of numpy arrays: matrices of the size of their fan-in, gains and variances
      around 1, everything else near 0.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key in ("scale", "var"):
            values = 1 + 0.1 * np.abs(values)
        elif len(leaf.shape) < 2:
            values = 0.05 * values
        else:
            values = values * np.float32(np.prod(leaf.shape[:-1]) ** -0.5)
        return values.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(networks))


def random_system(config: ConfigDict) -> tuple[tpgdiff.TPGDiff, dict[str, Any]]:
    """Build the system of a configuration with random weights.

    The network's last layer is small, so that a chain that predicts x0 stays near its input.

    Returns:
      (the model, its {"params", "frozen"}, numpy arrays).
    """
    model = tpgdiff.build(config)
    params = random_weights(tpgdiff.trained_networks(model))
    last = params["unet"]["final_conv"]
    params["unet"]["final_conv"] = jax.tree.map(lambda leaf: leaf * leaf.dtype.type(0.1), last)
    frozen = random_weights(tpgdiff.frozen_networks(model), seed=1)
    return model, {"params": params, "frozen": frozen}
