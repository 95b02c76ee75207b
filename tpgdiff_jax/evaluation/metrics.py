"""PSNR and SSIM on the device, in batches of images of unequal sizes.

SSIM: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (IEEE
TIP 2004), over the positions whose window lies inside the image.  `protocols.py` says which papers
choose which window.  Images of a batch may be padded at the bottom and right: what lies outside an
image's own size counts for nothing.
"""

import functools

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
# Name -> weights along one side, float64: they sum to 1, and a window is their outer product.
WINDOWS = {
    "gaussian": np.exp(-((np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) ** 2) / (2 * 1.5**2)),
    "uniform": np.ones(7),
}
WINDOWS = {name: taps / taps.sum() for name, taps in WINDOWS.items()}


@functools.partial(jax.jit, static_argnames="crop_border")
def psnr(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the peak signal-to-noise ratio over RGB.

    Args:
      prediction, target: uint8 [B, H, W, 3].
      crop_border: pixels left out at every edge.

    Returns:
      float32 [B] in dB; infinity for equal images.
    """
    return masked_psnr(*_as_float(prediction, target), _whole(target), crop_border)


@functools.partial(jax.jit, static_argnames="crop_border")
def psnr_y(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the peak signal-to-noise ratio over luma; arguments as in `psnr`."""
    images = map(luma, _as_float(prediction, target))
    return masked_psnr(*images, _whole(target), crop_border)


@functools.partial(jax.jit, static_argnames="crop_border")
def ssim(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the structural similarity under the Gaussian window, the mean over RGB channels.

    Args:
      prediction, target: uint8 [B, H, W, 3], at least 11 pixels a side after cropping.
      crop_border: pixels left out at every edge.

    Returns:
      float32 [B], at most 1.

    Raises:
      ValueError: the images are smaller than the window.
    """
    _check_window(target, crop_border)
    return masked_ssim(*_as_float(prediction, target), _whole(target), crop_border)


@functools.partial(jax.jit, static_argnames="crop_border")
def ssim_y(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the structural similarity of the luma; arguments as in `ssim`."""
    _check_window(target, crop_border)
    images = map(luma, _as_float(prediction, target))
    return masked_ssim(*images, _whole(target), crop_border)


def _as_float(prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {prediction.shape} and target {target.shape} differ in size; "
            "scores need equal images."
        )
    return prediction.astype(jnp.float32), target.astype(jnp.float32)


def _whole(image: jax.Array) -> jax.Array:
    return jnp.tile(jnp.array(image.shape[1:3], jnp.int32), (image.shape[0], 1))


def _check_window(image: jax.Array, border: int) -> None:
    height, width = (side - 2 * border for side in image.shape[1:3])
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels; got {height}x{width}."
        )


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
