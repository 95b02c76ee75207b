"""The training step of a run as one program: what a batch holds, and how all lies on the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.training import setup
from tpgdiff_jax.training.stages import Stage
from tpgdiff_jax.training.state import make_optimizer
from tpgdiff_jax.training.step import jit_train_step


def batch_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Return what of a batch goes to the devices: name -> shape of all processes' together."""
    data = config.data
    count, size, classes = data.batch_size, data.crop_size, len(data.degradations)
    image = jax.ShapeDtypeStruct((count, size, size, 3), np.uint8)
    one, several = ((count,), np.int32), ((count, classes), np.float32)
    label = jax.ShapeDtypeStruct(*(several if is_multi_hot(config) else one))
    return {"gt": image, "lq": image, "label": label}


def is_multi_hot(config: ConfigDict) -> bool:
    """Tell whether an example may have several degradations, or none."""
    return config.data.max_mixed > 1 or config.data.clean_share > 0


def step_program(
    stage: Stage, mesh: Mesh, state_shardings: Any, frozen_shardings: Any
) -> Callable[..., Any]:
    """Return a stage's step as one program; see `step.jit_train_step`.

    Args:
      stage: what learns.
      mesh: the devices.
      state_shardings, frozen_shardings: how state and frozen weights lie on them.
    """
    shapes = batch_shapes(stage.config)
    return jit_train_step(
        stage.loss_fn,
        make_optimizer(stage.config.optim),
        stage.config,
        mesh=mesh,
        state_shardings=state_shardings,
        frozen_shardings=frozen_shardings,
        batch_ndims={name: len(leaf.shape) for name, leaf in shapes.items()},
        split_rows=setup.splits_rows(stage.config),
    )
