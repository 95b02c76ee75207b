"""Take any picture apart into RGB and what is kept, and put the restored one together again."""

import dataclasses
from typing import Any

import numpy as np
from PIL import Image

_SHAPES = "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
_SCALES = {"uint8": 255, "uint16": 65535}


@dataclasses.dataclass
class Form:
    """A picture, and how it came.

    Attributes:
      rgb: float32 [H, W, 3] in [0, 1].
      shape: of the array that came.
      dtype: its type.
      alpha: its fourth channel, untouched, or None.
      name: decides the noise, with the seed.
      as_picture: it came as a PIL image.
    """

    rgb: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype
    alpha: np.ndarray | None = None
    name: str = ""
    as_picture: bool = False

    def rebuild(self, restored: np.ndarray) -> Any:
        """Give a restored image, float32 [H, W, 3] in [0, 1], the form in which it came."""
        if len(self.shape) == 2 or self.shape[2] == 1:
            restored = restored.mean(axis=-1).reshape(self.shape)
        if self.dtype.name in _SCALES:
            restored = np.round(restored * _SCALES[self.dtype.name])
        restored = restored.astype(self.dtype)
        if self.alpha is not None:
            restored = np.concatenate([restored, self.alpha], axis=-1)
        return Image.fromarray(restored) if self.as_picture else restored


def form_of(array: np.ndarray) -> Form:
    """Take an array apart.

    Args:
      array: uint8, uint16, or float in [0, 1]; [H, W], [H, W, 1], [H, W, 3] or [H, W, 4].

    Raises:
      ValueError: another shape or type, no pixels, or values that are not finite or far outside.
    """
    good_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not good_shape or array.size == 0:
        raise ValueError(f"An image of shape {array.shape} was given; expected {_SHAPES}.")
    is_float = np.issubdtype(array.dtype, np.floating)
    if not is_float and array.dtype.name not in _SCALES:
        raise ValueError(
            f"An image of type {array.dtype} was given; expected uint8, uint16 or float in [0, 1]."
        )
    if is_float and not (np.isfinite(array).all() and array.min() >= -0.01 and array.max() <= 1.01):
        raise ValueError("A float image with values outside [0, 1], or not finite, was given.")
    colours = array.reshape(*array.shape[:2], -1)
    alpha = colours[..., 3:] if colours.shape[-1] == 4 else None
    rgb = colours[..., :3].astype(np.float32) / (1 if is_float else _SCALES[array.dtype.name])
    if rgb.shape[-1] == 1:
        rgb = np.repeat(rgb, 3, axis=-1)
    return Form(np.clip(rgb, 0, 1), array.shape, array.dtype, alpha)
