"""Take any picture apart into RGB and what is kept, and put the restored one together again."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tpgdiff_jax.data.pictures.door import of_pillow, read_picture
from tpgdiff_jax.data.pictures.metadata import NO_METADATA, Metadata, sound_profile
from tpgdiff_jax.data.pictures.picture import Picture
from tpgdiff_jax.inference.results import RestoredBatch
from tpgdiff_jax.priors.degradation import named_probabilities, verdict
from tpgdiff_jax.reporting.errors import UserError

_SHAPES = "[H, W], [H, W, 1], [H, W, 2], [H, W, 3] or [H, W, 4]"
_DEVIATION_WHITE = 0.1
_SCALES = {"uint8": 255, "uint16": 65535}
NOT_FINITE = "its restoration is not finite (damaged weights?); try another sampler or more steps"


class NotFiniteError(UserError):
    """A result that is no picture, as of damaged weights."""


@dataclasses.dataclass
class InputImage:
    """A picture, and how it came.

    Attributes:
      rgb: float32 [H, W, 3] in [0, 1].
      shape: of the array that came.
      dtype: its type.
      alpha: its last channel [H, W, 1], untouched, or None.
      name: decides the noise, with the seed.
      as_picture: it came as a PIL image.
      metadata: what the file says of it besides: profile, EXIF, XMP, dpi.
      mark: tells a file's content from others', where that was asked for; see `Picture.mark`.
    """

    rgb: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype
    alpha: np.ndarray | None = None
    name: str = ""
    as_picture: bool = False
    metadata: Metadata = NO_METADATA
    mark: str = ""

    def rebuild(self, restored: np.ndarray) -> Any:
        """Give a restored image, float32 [H, W, 3] in [0, 1], the form in which it came."""
        if len(self.shape) == 2 or self.shape[2] <= 2:
            flat = self.shape[:2] if len(self.shape) == 2 else (*self.shape[:2], 1)
            restored = restored.mean(axis=-1).reshape(flat)
        if self.dtype.name in _SCALES:
            restored = np.round(restored * _SCALES[self.dtype.name])
        restored = restored.astype(self.dtype)
        if self.alpha is not None:
            restored = np.concatenate([restored, self.alpha], axis=-1)
        if not self.as_picture:
            return restored
        picture = Image.fromarray(restored)
        colours = 1 if restored.ndim == 2 or restored.shape[2] == 2 else 3
        if profile := sound_profile(self.metadata.icc, colours):
            picture.info["icc_profile"] = profile
        return picture

    def restored(
        self, batch: RestoredBatch, row: int, names: Sequence[str], kind: str
    ) -> "Restored | NotFiniteError":
        """Return the result of this picture.

        Args:
          batch: the results of some pictures, as NumPy arrays, padded.
          row: of this one.
          names: of the degradations that the classifier knows, where there is one.
          kind: of the classifier, see `verdict`.
        """
        if not batch.finite[row]:
            return NotFiniteError(NOT_FINITE)
        height, width = self.rgb.shape[:2]
        degradations = {}
        if batch.logits is not None:
            degradations = named_probabilities(batch.logits[row], names, kind)
        return Restored(
            self.rebuild(batch.restored[row, :height, :width]),
            None if batch.deviation is None else batch.deviation[row, :height, :width],
            degradations,
            verdict(degradations, kind) if degradations else None,
            passes=int(batch.passes[row]),
        )


@dataclasses.dataclass(frozen=True)
class Restored:
    """A restored image, and what is known about it.

    Attributes:
      image: of the same size and kind as the one that was given (an array for a path); with
        several samples their mean.
      deviation: per-pixel standard deviation of the samples, root mean square over the colours,
        float32 [H, W] as a part of the range from black to white; None for one sample.
      degradations: what degraded the image, as `Restorer.degradations` returns it.
      verdict: the same in one word, with its probability, such as ("haze", 0.9); weights that
        know mixtures may say "haze+rain" or "nothing".  None where there is no classifier.
      passes: how often it was restored in a row, see `inference.passes`.
      error: why the image could not be restored; `image` is None then.
    """

    image: Any
    deviation: np.ndarray | None
    degradations: dict[str, float]
    verdict: tuple[str, float] | None = None
    passes: int = 1
    error: Exception | None = None

    def deviation_picture(self) -> np.ndarray:
        """Return the deviation as a grey picture, uint8 [H, W]: white is 0.1 or more."""
        if self.deviation is None:
            raise UserError("The deviation needs several samples; restore with samples=2 or more.")
        return np.round(np.clip(self.deviation / _DEVIATION_WHITE, 0, 1) * 255).astype(np.uint8)


def as_input(image: Any, *, marked: bool = False) -> InputImage:
    """Take any picture apart.

    Args:
      image: a path, a PIL image, an array as `input_of_array` takes it, or an `InputImage`.  Files
        and PIL images are turned upright, as their EXIF orientation says.
      marked: give what comes of a path its `mark`.

    Raises:
      UserError: as `input_of_array`.
      UnreadableImageError: a path that is no image.
    """
    if isinstance(image, InputImage):
        return image
    if isinstance(image, str | os.PathLike):
        found = _input_of_picture(read_picture(image, marked=marked))
        found.name = pathlib.Path(image).name
        return found
    if isinstance(image, Image.Image):
        found = _input_of_picture(of_pillow(image))
        found.as_picture = True
        return found
    array = np.asarray(image)
    if array.dtype.kind in "OSU":
        raise UserError(
            f"A {type(image).__name__} was given; expected a path, a PIL image or an array "
            "(several in a list). Pillow makes an image of a file's content, in an io.BytesIO."
        )
    return input_of_array(array)


def is_one_picture(shape: tuple[int, ...]) -> bool:
    """Tell whether an array of a shape can be a picture."""
    return len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 2, 3, 4))


def _input_of_picture(picture: Picture) -> InputImage:
    found = input_of_array(picture.pixels)
    found.metadata, found.mark = picture.metadata, picture.mark
    return found


def input_of_array(array: np.ndarray) -> InputImage:
    """Take an array apart.

    Args:
      array: uint8, uint16, or float in [0, 1]; [H, W], [H, W, 1], [H, W, 3], or with
        alpha behind the colours, [H, W, 2] or [H, W, 4].

    Raises:
      UserError: another shape or type, no pixels, or values that are not finite or far outside.
    """
    if not is_one_picture(array.shape) or array.size == 0:
        raise UserError(f"An image of shape {array.shape} was given; expected {_SHAPES}.")
    is_float = np.issubdtype(array.dtype, np.floating)
    if not is_float and array.dtype.name not in _SCALES:
        raise UserError(
            f"An image of type {array.dtype} was given; expected uint8, uint16 or float in [0, 1]."
        )
    if is_float and not (np.isfinite(array).all() and array.min() >= -0.01 and array.max() <= 1.01):
        raise UserError(
            "A float image with values outside [0, 1], or not finite, was given: from "
            f"{array.min():.4g} to {array.max():.4g}. Divide by the value of white first."
        )
    colours = array.reshape(*array.shape[:2], -1)
    has_alpha = colours.shape[-1] in (2, 4)
    alpha = colours[..., -1:] if has_alpha else None
    rgb = colours[..., : colours.shape[-1] - has_alpha].astype(np.float32)
    rgb /= 1 if is_float else _SCALES[array.dtype.name]  # in place: photos may fill the memory
    np.clip(rgb, 0, 1, out=rgb)
    if rgb.shape[-1] == 1:
        rgb = np.repeat(rgb, 3, axis=-1)
    return InputImage(rgb, array.shape, array.dtype, alpha)
