"""PSNR and SSIM on the device, in batches of images of unequal sizes.

SSIM: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (IEEE
TIP 2004), over the positions whose window lies inside the image.  `protocols.py` says which papers
choose which window.  Images of a batch may be padded at the bottom and right: what lies outside an
image's own size counts for nothing.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_PEAK = 255.0
# Grey levels.  Pixels that differ by less are equal: what float32 loses of 8-bit values that were
# divided by 255, or of their luma, must not pass for an error of 150 dB.
_ROUNDING = 1e-3
# Studio-swing luma of ITU-R BT.601 for values in 0..255.
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
SSIM_WINDOW = 11
_BUCKET = 64  # images are padded to multiples of so many pixels
# Name -> weights along one side, float64: they sum to 1, and a window is their outer product.
WINDOWS = {
    "gaussian": np.exp(-((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) ** 2) / (2 * 1.5**2)),
    "uniform": np.ones(7),
}
WINDOWS = {name: taps / taps.sum() for name, taps in WINDOWS.items()}


def psnr(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the peak signal-to-noise ratio over RGB.

    Args:
      prediction, target: uint8 [B, H, W, 3].
      crop_border: pixels left out at every edge.

    Returns:
      float32 [B] in dB; infinity for equal images.

    Raises:
      ValueError: images of other kinds or unequal sizes, or none is left without the border.
    """
    return _score(masked_psnr, prediction, target, crop_border)


def psnr_y(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the peak signal-to-noise ratio over luma; arguments as in `psnr`."""
    return _score(masked_psnr, prediction, target, crop_border, of_luma=True)


def ssim(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the structural similarity under the Gaussian window, the mean over RGB channels.

    Args:
      prediction, target: uint8 [B, H, W, 3], at least 11 pixels a side after cropping.
      crop_border: pixels left out at every edge.

    Returns:
      float32 [B], at most 1.

    Raises:
      ValueError: images of other kinds or unequal sizes, or smaller than the window.
    """
    return _score(masked_ssim, prediction, target, crop_border, SSIM_WINDOW)


def ssim_y(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the structural similarity of the luma; arguments as in `ssim`."""
    return _score(masked_ssim, prediction, target, crop_border, SSIM_WINDOW, of_luma=True)


def _score(
    masked: Callable[..., jax.Array],
    prediction: jax.Array,
    target: jax.Array,
    border: int,
    smallest: int = 1,
    *,
    of_luma: bool = False,
) -> jax.Array:
    """Check images, and score them by a masked function."""
    for name, image in (("prediction", prediction), ("target", target)):
        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3:
            raise ValueError(
                f"{name}: {image.dtype} {list(image.shape)}; scores need uint8 [B, H, W, 3]."
            )
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {prediction.shape} and target {target.shape} differ in size; "
            "scores need equal images."
        )
    height, width = (side - 2 * border for side in target.shape[1:3])
    if min(height, width) < smallest:
        raise ValueError(
            f"Scores need at least {smallest}x{smallest} pixels inside the border; got "
            f"{height}x{width}."
        )
    sizes = np.tile(np.array(target.shape[1:3], np.int32), (len(target), 1))
    if not any(isinstance(image, jax.core.Tracer) for image in (prediction, target)):
        # A program serves many sizes: one of each would use up a process's memory maps.
        edges = [(0, -side % _BUCKET) for side in target.shape[1:3]]
        prediction, target = (
            np.pad(image, [(0, 0), *edges, (0, 0)]) for image in (prediction, target)
        )
    return _scored(masked, prediction, target, sizes, border, of_luma)


@functools.partial(jax.jit, static_argnames=("masked", "border", "of_luma"))
def _scored(masked, prediction, target, sizes, border: int, of_luma: bool) -> jax.Array:
    images = [image.astype(jnp.float32) for image in (prediction, target)]
    return masked(*(map(luma, images) if of_luma else images), sizes, border)


def luma(image: jax.Array) -> jax.Array:
    """Return the BT.601 luma [B, H, W, 1] of RGB values in 0..255."""
    weights = jnp.array(_LUMA, jnp.float32)
    return (image * weights).sum(axis=-1, keepdims=True) + 16


def inside(shape: tuple[int, ...], sizes: jax.Array, border: int = 0, window: int = 1) -> jax.Array:
    """Tell which windows lie inside each image, without its border.

    Args:
      shape: of the padded batch, (B, H, W, ...).
      sizes: height and width of each image, int [B, 2].
      border: pixels left out at every edge.
      window: side of the window; 1 for the pixels themselves.

    Returns:
      bool [B, H - window + 1, W - window + 1, 1], by the window's first row and column.
    """
    rows, columns = (
        (jnp.arange(length - window + 1) >= border)
        & (jnp.arange(length - window + 1) < sizes[:, axis, None] - border - window + 1)
        for axis, length in enumerate(shape[1:3])
    )
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Average values [B, H, W, C] where the mask [B, H, W, 1] is set: float32 [B].

    Rows are summed before columns, so that float32 keeps seven digits in large images, too.
    """
    total = jnp.where(mask, values, 0).sum(axis=(2, 3)).sum(axis=1)
    return total / (mask.sum(axis=(1, 2, 3)) * values.shape[-1])


def masked_psnr(
    prediction: jax.Array, target: jax.Array, sizes: jax.Array, border: int = 0
) -> jax.Array:
    """Return the peak signal-to-noise ratio of images in a padded batch.

    Args:
      prediction, target: float32 [B, H, W, C] in 0..255.
      sizes: height and width of each image, int [B, 2].
      border: pixels left out at every edge.

    Returns:
      float32 [B] in dB: 10 log10(255^2 / mean squared error); infinity for equal images.
    """
    mask = inside(target.shape, sizes, border)
    difference = prediction - target
    difference = jnp.where(jnp.abs(difference) < _ROUNDING, 0, difference)
    error = masked_mean(jnp.square(difference), mask)
    return 10 * jnp.log10(_PEAK**2 / error)


def masked_ssim(
    prediction: jax.Array,
    target: jax.Array,
    sizes: jax.Array,
    border: int = 0,
    window: str = "gaussian",
    sample_covariance: bool = False,
) -> jax.Array:
    """Return the structural similarity of images in a padded batch.

    Args:
      prediction, target: float32 [B, H, W, C] in 0..255, at least a window's size.
      sizes: height and width of each image, int [B, 2].
      border: pixels left out at every edge.
      window: `gaussian` (11x11, sigma 1.5) or `uniform` (7x7).
      sample_covariance: divide variances by N - 1 instead of N, N the window's pixels.

    Returns:
      float32 [B], the mean over windows and channels.
    """
    taps = WINDOWS[window]

    def mean(image):
        return _window_mean(image, taps)

    # Variances are differences of nearly equal numbers: centred values keep float32 exact enough.
    x, y = prediction - 128, target - 128
    mean_x, mean_y = mean(x), mean(y)
    pixels = len(taps) ** 2
    scale = pixels / (pixels - 1) if sample_covariance else 1.0
    variances = scale * (mean(x * x) + mean(y * y) - mean_x**2 - mean_y**2)
    covariance = scale * (mean(x * y) - mean_x * mean_y)
    mean_x, mean_y = mean_x + 128, mean_y + 128
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return masked_mean(luminance * structure, inside(target.shape, sizes, border, len(taps)))


def _window_mean(image: jax.Array, taps: np.ndarray) -> jax.Array:
    """Average under a window, valid region: rows, then columns."""
    for axis in (1, 2):
        size = image.shape[axis] - len(taps) + 1
        image = sum(
            float(tap) * jax.lax.slice_in_dim(image, offset, offset + size, axis=axis)
            for offset, tap in enumerate(taps)
        )
    return image
