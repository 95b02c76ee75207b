"""How arrays lie in PyTorch files, and how in our parameters."""

import dataclasses
from collections.abc import Callable

import numpy as np

Turn = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A pair of inverse functions: from a PyTorch array to ours, and back."""

    to_ours: Turn
    to_torch: Turn


SAME = Layout(lambda a: a, lambda a: a)
# Linear layers: [out, in] there, [in, out] here.
MATRIX = Layout(lambda a: a.T, lambda a: a.T)
# Convolutions: OIHW there, HWIO here.  Depthwise ones, too.
CONV = Layout(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
# 1x1 convolutions, here matrices.
POINTWISE = Layout(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])
# Transposed convolutions whose stride is their size: [in, out, k, k] there, [in, k, k, out] here.
EXPAND = Layout(lambda a: a.transpose(0, 2, 3, 1), lambda a: a.transpose(0, 3, 1, 2))
# Gains of channel norms: [1, C, 1, 1] there, [C] here.
GAIN = Layout(lambda a: a.reshape(-1), lambda a: a.reshape(1, -1, 1, 1))
# Tables with an axis for the batch.
ROW = Layout(lambda a: a[0], lambda a: a[None])
TOKEN = Layout(lambda a: a[0, 0], lambda a: a[None, None])


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one of our parameters stands in a PyTorch file.

    Attributes:
      keys: its names there; several are joined along their first axis, in equal parts.
      layout: how each of them lies.
    """

    keys: tuple[str, ...]
    layout: Layout

    def read(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Return our parameter from the file's arrays, in the order of `keys`."""
        joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return self.layout.to_ours(joined)

    def write(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """Return the file's arrays from our parameter."""
        parts = np.split(self.layout.to_torch(value), len(self.keys))
        return dict(zip(self.keys, parts, strict=True))

    def shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of the file's arrays for our parameter's shape."""
        stand_in = np.broadcast_to(np.bool_(0), shape)  # takes no memory
        return {key: part.shape for key, part in self.write(stand_in).items()}


def standard_layout(leaf: str, ndim: int) -> Layout:
    """Return the layout that a parameter's own name and number of axes tell.

    Args:
      leaf: last part of our parameter's path; `kernel` means a weight.
      ndim: number of its axes.
    """
    if leaf != "kernel":
        return SAME
    return CONV if ndim == 4 else MATRIX
