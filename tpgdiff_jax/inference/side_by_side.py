"""The picture that shows a degraded photo and its restoration beside each other."""

from typing import Any

import numpy as np

from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.data.pictures.picture import to_8_bit
from tpgdiff_jax.inference.input_images import InputImage, as_input
from tpgdiff_jax.inference.plan import Task
from tpgdiff_jax.reporting.errors import UserError

KIND = "side_by_side"  # see `Task.beside`


def write(task: Task, degraded: InputImage, restored: Any) -> None:
    """Write the picture of a result.

    Args:
      task: whose result it is.
      degraded: the picture that was restored.
      restored: the result, anything that `as_input` takes.

    Raises:
      UserError: their sizes differ.
      OSError: disk full, ...
    """
    pair = [degraded.rgb, as_input(restored).rgb]
    (height, width), found = (rgb.shape[:2] for rgb in pair)
    if found != (height, width):
        raise UserError(
            f"{task.target.name} has {found[1]}x{found[0]} pixels, the picture {width}x{height}; "
            "remove the result to restore it anew"
        )
    picture = to_8_bit(np.concatenate(pair, axis=1))
    write_image(task.beside(KIND), picture, degraded.metadata)


def add(task: Task) -> None:
    """Write the picture of a result that is there already; raises as `write`, and as reading."""
    write(task, as_input(task.source), task.target)
