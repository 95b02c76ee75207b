"""Resize images on the device, as the programs do whose weights we use.

Every method is separable: one matrix [out, in] per axis, computed on the host in float64.  With
antialiasing the filter widens when shrinking, as in Pillow; without, two or four neighbours count,
as in PyTorch's `interpolate`.  The cubic filter is Keys' (IEEE Trans. ASSP 29(6), 1981) with
a = -0.5 where antialiased and a = -0.75 where not, as those two programs have it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.precision import EXACT

METHODS = ("linear", "cubic")


def resize(
    images: jax.Array,
    size: tuple[int, int],
    method: str = "linear",
    *,
    antialias: bool = False,
    align_corners: bool = False,
) -> jax.Array:
    """Resize images.

    Args:
      images: float [B, H, W, C], any range.
      size: (height, width) of the result, pixels.
      method: one of `METHODS`.
      antialias: widen the filter when shrinking.
      align_corners: the centres of the corner pixels stay in place (else the image's edges do).

    Returns:
      [B, *size, C] in the input's dtype.

    Raises:
      ValueError: an unknown method.
    """
    kinds = (method, antialias, align_corners)
    rows = _filter_matrix(images.shape[1], size[0], *kinds)
    columns = _filter_matrix(images.shape[2], size[1], *kinds)
    x = images.astype(jnp.float32)
    x = _along_width(x, columns) if columns is not None else x
    x = _along_height(x, rows) if rows is not None else x
    return x.astype(images.dtype)


def resize_bytes(
    images: jax.Array,
    size: tuple[int, int],
    method: str,
    part: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> jax.Array:
    """Resize 8-bit images as Pillow does: antialiased, whole grey levels after each axis.

    Columns come before rows, as in Pillow before version 13.

    Args:
      images: float32 [B, H, W, C] in [0, 255], whole numbers.
      size: (height, width) of the result, pixels.
      method: one of `METHODS`.
      part: rows and columns of the result that are wanted, (first, behind the last) of each; all by
        default.  The rest costs neither time nor memory.

    Returns:
      float32 [B, *size, C] in [0, 255], whole numbers; of a part its size.
    """
    (top, bottom), (left, right) = part or ((0, size[0]), (0, size[1]))
    columns = _filter_matrix(images.shape[2], size[1], method, True, False, left, right)
    rows = _filter_matrix(images.shape[1], size[0], method, True, False, top, bottom)
    x = images
    for weights, along in ((columns, _along_width), (rows, _along_height)):
        if weights is not None:
            # Pillow rounds halves up.
            x = jnp.clip(jnp.floor(along(x, weights) + 0.5), 0, 255)
    x = x if columns is not None else x[:, :, left:right]
    return x if rows is not None else x[:, top:bottom]


def _along_height(x, weights):
    return jnp.einsum("oh,bhwc->bowc", weights, x, precision=EXACT)


def _along_width(x, weights):
    return jnp.einsum("ow,bhwc->bhoc", weights, x, precision=EXACT)


@functools.lru_cache(maxsize=64)
def _filter_matrix(
    length: int,
    wanted: int,
    method: str,
    antialias: bool,
    align_corners: bool,
    start: int = 0,
    stop: int | None = None,
) -> np.ndarray | None:
    """Return rows start:stop of one axis' float32 matrix [wanted, length].

    None where nothing changes: `wanted` is `length`.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is unknown; expected one of {', '.join(METHODS)}.")
    if length == wanted:
        return None
    index = np.arange(start, wanted if stop is None else stop)
    if align_corners:
        centres = index * ((length - 1) / max(wanted - 1, 1))
    else:
        centres = (index + 0.5) * (length / wanted) - 0.5
    if antialias:
        return _windowed(centres, length, method, max(length / wanted, 1.0))
    return _neighbours(centres, length, method)


def _windowed(centres, length, method, stretch):
    """Weights of all pixels within the stretched filter, cut off at the border and normalised."""
    distance = (np.arange(length)[None, :] - centres[:, None]) / stretch
    weights = _kernel(distance, method, -0.5)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _neighbours(centres, length, method):
    """Weights of the two or four nearest pixels; those beyond the border repeat the edge."""
    if method == "linear":
        centres = np.clip(centres, 0, length - 1)
    first = np.floor(centres).astype(int)
    weights = np.zeros((len(centres), length))
    reach = range(0, 2) if method == "linear" else range(-1, 3)
    rows = np.arange(len(centres))
    for offset in reach:
        index = first + offset
        weight = _kernel(index - centres, method, -0.75)
        np.add.at(weights, (rows, np.clip(index, 0, length - 1)), weight)
    return weights.astype(np.float32)


def _kernel(distance, method, a):
    x = np.abs(distance)
    if method == "linear":
        return np.maximum(1 - x, 0)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
