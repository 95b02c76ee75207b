"""What a file shows, as every reader takes it."""

import dataclasses
from typing import Any, Protocol

import numpy as np

from tpgdiff_jax.data.pictures.metadata import NO_METADATA, Metadata
from tpgdiff_jax.reporting.errors import UserError

MOST_FRAMES = 1000  # that are counted
_LEAST, _MOST = -0.01, 1.01  # of floats that are meant to lie in [0, 1]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture, upright.

    Attributes:
      pixels: uint8, uint16, or float32 in [0, 1]; grey [H, W], grey and alpha [H, W, 2], RGB
        [H, W, 3] or RGB and alpha [H, W, 4]; alpha is never multiplied into the colours.
      frames: how many pages or frames the file holds; this is the first.  More than `MOST_FRAMES`
        need not be counted.
      metadata: what else the file says of it.
      mark: `door.content_mark` of the file, where it was asked for.
    """

    pixels: np.ndarray
    frames: int = 1
    metadata: Metadata = NO_METADATA
    mark: str = ""

    def rgb8(self) -> np.ndarray:
        """Return uint8 [H, W, 3]: grey repeated, alpha dropped, deeper values rounded."""
        pixels = self.pixels
        colours = pixels[..., None] if pixels.ndim == 2 else pixels
        colours = colours[..., : 3 if colours.shape[-1] > 2 else 1]
        colours = to_8_bit(colours)
        if colours.shape[-1] == 1:
            colours = np.repeat(colours, 3, axis=-1)
        return np.ascontiguousarray(colours)


class Stored(Protocol):
    """An opened file of one kind; the header is read, pixels come when they are asked for.

    Attributes:
      size: (height, width) as stored, before it is turned.
      orientation: 1 to 8, how it must be turned to be upright, as EXIF numbers it.
    """

    size: tuple[int, int]
    orientation: int

    def pixels(self) -> np.ndarray:
        """Return the first frame as stored, in one of the forms of `Picture.pixels`."""

    def frames(self) -> int:
        """Return how many frames there are."""

    def metadata(self) -> Metadata:
        """Return what else the file says; what is broken of it is left out."""


def to_8_bit(pixels: np.ndarray) -> np.ndarray:
    """Round pixels of any depth to uint8: 65535, or 1.0, becomes 255."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        # round(x / 257) in whole numbers.
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright.

    Args:
      pixels: [H, W] or [H, W, C].
      orientation: 1 to 8, as EXIF numbers it.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    upside_down = orientation in (3, 4, 7, 8)
    mirrored = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def checked_floats(pixels: np.ndarray, what: str = "float values") -> np.ndarray:
    """Return floats as float32 in [0, 1].

    Raises:
      UserError: they are not finite, or lie outside.
    """
    if not np.isfinite(pixels).all():
        raise UserError(f"{what} that are not finite (NaN or infinity), expected 0 to 1")
    low, high = float(pixels.min()), float(pixels.max())
    if low < _LEAST or high > _MOST:
        raise UserError(f"{what} from {low:g} to {high:g}, expected 0 to 1; scale them first")
    return np.clip(pixels.astype(np.float32), 0, 1)


def from_bits(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Scale unsigned integers of a number of bits to the whole range of uint8 or uint16.

    Raises:
      UserError: 32-bit integers, of which so little of the range is used that another was meant.
    """
    if bits in (8, 16) and pixels.dtype.itemsize * 8 == bits:
        return pixels.astype(f"uint{bits}")  # in the machine's own byte order
    most, kind = 2**bits - 1, np.uint8 if bits <= 8 else np.uint16
    if bits > 16 and 0 < int(pixels.max()) < most >> 8:
        raise UserError(
            f"{bits}-bit integers up to {int(pixels.max())} only, so what is white is not known; "
            "save it with 16 bit"
        )
    scaled = pixels.astype(np.float64) * (np.iinfo(kind).max / most)
    return np.round(scaled).astype(kind)


def require(condition: Any, reason: str) -> None:
    """Raise UserError with a reason unless a condition holds."""
    if not condition:
        raise UserError(reason)
