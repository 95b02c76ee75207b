"""PSNR and SSIM by the `tpgdiff` protocol: uint8 images, 0..255, RGB or BT.601 luma.

SSIM: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (IEEE
TIP 2004), with an 11x11 Gaussian window of sigma 1.5 and the valid region only.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

_PEAK = 255.0
# Studio-swing luma of ITU-R BT.601 for values in 0..255.
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
SSIM_WINDOW = 11


@functools.partial(jax.jit, static_argnames="crop_border")
def psnr(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the peak signal-to-noise ratio over RGB.

    Args:
      prediction, target: uint8 [B, H, W, 3].
      crop_border: pixels left out at every edge.

    Returns:
      float32 [B] in dB; infinity for equal images.
    """
    return _psnr(*_as_float(prediction, target, crop_border))


@functools.partial(jax.jit, static_argnames="crop_border")
def psnr_y(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the peak signal-to-noise ratio over luma; arguments as in `psnr`."""
    return _psnr(*map(_luma, _as_float(prediction, target, crop_border)))


@functools.partial(jax.jit, static_argnames="crop_border")
def ssim(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the structural similarity, the mean over RGB channels.

    Args:
      prediction, target: uint8 [B, H, W, 3], at least 11 pixels a side after cropping.
      crop_border: pixels left out at every edge.

    Returns:
      float32 [B], at most 1.

    Raises:
      ValueError: the images are smaller than the window.
    """
    return _ssim(*_as_float(prediction, target, crop_border))


@functools.partial(jax.jit, static_argnames="crop_border")
def ssim_y(prediction: jax.Array, target: jax.Array, crop_border: int = 0) -> jax.Array:
    """Return the structural similarity of the luma; arguments as in `ssim`."""
    return _ssim(*map(_luma, _as_float(prediction, target, crop_border)))


def _as_float(prediction, target, crop_border):
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {prediction.shape} and target {target.shape} differ in size; "
            "scores need equal images."
        )
    inner = slice(crop_border, -crop_border or None)
    return tuple(image[:, inner, inner].astype(jnp.float32) for image in (prediction, target))


def _luma(image: jax.Array) -> jax.Array:
    weights = jnp.array(_LUMA, jnp.float32)
    return (image * weights).sum(axis=-1, keepdims=True) + 16


def _psnr(prediction: jax.Array, target: jax.Array) -> jax.Array:
    error = jnp.square(prediction - target).mean(axis=(1, 2, 3))
    return 10 * jnp.log10(_PEAK**2 / error)


def _ssim(x: jax.Array, y: jax.Array) -> jax.Array:
    if min(x.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels; "
            f"got {x.shape[1]}x{x.shape[2]}."
        )
    # Variances are differences of nearly equal numbers: centred values keep float32 exact enough.
    x, y = x - 128, y - 128
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mean_x**2
    var_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    mean_x, mean_y = mean_x + 128, mean_y + 128
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean(axis=(1, 2, 3))


def _window_mean(image: jax.Array) -> jax.Array:
    """Average under the Gaussian window, valid region: rows, then columns."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    taps = np.exp(-(offsets**2) / (2 * 1.5**2))
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (1, 2):
        size = image.shape[axis] - SSIM_WINDOW + 1
        image = sum(
            float(tap) * jax.lax.slice_in_dim(image, offset, offset + size, axis=axis)
            for offset, tap in enumerate(taps)
        )
    return image
