"""Three named ways to compute "the PSNR" of a test set; papers differ, so every score says which.

Effects seen on the same pictures: luma instead of RGB +1.4 to +4.8 dB; the SSIM window 0.007 to
0.022; the border up to 0.15 dB; clipping of noisy inputs 0.03 to 0.7 dB.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.backbones.preprocessing import luma
from tpgdiff_jax.data.images import cut_like
from tpgdiff_jax.evaluation import metrics

# `psnr_gt_mean` brings the mean brightness to the truth's first: never the default, since it moves
# low-light scores by 4 dB.
SCORES = ("psnr", "ssim", "psnr_y", "ssim_y", "psnr_gt_mean")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How scores are computed.

    Attributes:
      name: its key in `PROTOCOLS`.
      used_by: methods whose papers score like this.
      multiple: images are first cut, around their centre, to multiples of so many pixels.
      rounds: outputs are rounded to 8 bit before they are scored.
      border: pixels left out at every edge.
      window: of SSIM, a key of `metrics.WINDOWS`.
      sample_covariance: SSIM divides variances by N - 1.
      truncates_noise: 8-bit noisy inputs are cut to whole numbers instead of rounded.
    """

    name: str
    used_by: str
    multiple: int
    rounds: bool
    border: int
    window: str
    sample_covariance: bool
    truncates_noise: bool

    @property
    def smallest(self) -> int:
        """The smallest side, in pixels, that has a score."""
        return len(metrics.WINDOWS[self.window]) + 2 * self.border

    def describe(self) -> str:
        """Say in one line what is computed."""
        cut = f"cut to multiples of {self.multiple}" if self.multiple > 1 else "whole image"
        kind = "8-bit output" if self.rounds else "float output, clipped"
        border = f"{self.border} border pixels removed" if self.border else "no border removed"
        side = len(metrics.WINDOWS[self.window])
        norm = ", sample covariance" if self.sample_covariance else ""
        window = f"SSIM {side}x{side} {self.window}{norm}"
        return (
            f"{self.name}: {cut}, {kind}, {border}, PSNR over RGB per image, {window}; "
            "LPIPS with the border"
        )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "tpgdiff", "TPGDiff, IR-SDE, DA-CLIP", 1, True, 4, "gaussian", False, False
        ),
        Protocol(
            "promptir", "AirNet, PromptIR, AdaIR, DFPIR", 16, False, 0, "uniform", True, True
        ),
        Protocol("moceir", "MoCE-IR", 16, False, 0, "gaussian", True, True),
    )
}  # fmt: skip


def cropped_size(protocol: Protocol, size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of an image after `centre_cropped`."""
    height, width = (side - side % protocol.multiple for side in size)
    return height, width


def centre_cropped(protocol: Protocol, image: np.ndarray) -> np.ndarray:
    """Cut an image [H, W, C] to the protocol's multiple, the odd pixel at the bottom and right."""
    return cut_like(image, cropped_size(protocol, image.shape[:2]))


def add_noise(protocol: Protocol, clean: np.ndarray, normal: np.ndarray, sigma: float):
    """Make an 8-bit noisy image.

    Args:
      protocol: decides whether values are rounded or truncated.
      clean: uint8 [H, W, 3].
      normal: standard normal draws [H, W, 3].
      sigma: of the noise, in grey levels.

    Returns:
      uint8 [H, W, 3].
    """
    noisy = np.clip(clean + sigma * normal, 0, 255)
    return (noisy if protocol.truncates_noise else np.round(noisy)).astype(np.uint8)


def as_scored(protocol: Protocol, image: jax.Array) -> jax.Array:
    """Return what the protocol scores of outputs [..., 3] in [0, 1]: float32 in 0..255."""
    values = jnp.clip(image.astype(jnp.float32), 0, 1) * 255
    return jnp.round(values) if protocol.rounds else values


def scores(
    protocol: Protocol,
    prediction: jax.Array,
    target: jax.Array,
    sizes: jax.Array,
    names: Sequence[str] = SCORES,
) -> dict[str, jax.Array]:
    """Score the images of a padded batch.

    Args:
      protocol: how.
      prediction: float32 [B, H, W, 3], of `as_scored`.
      target: uint8 [B, H, W, 3].
      sizes: height and width of each image, int [B, 2].
      names: which of `SCORES`.

    Returns:
      name -> float32 [B]; dB or SSIM.
    """
    target = target.astype(jnp.float32)
    similarity = {"window": protocol.window, "sample_covariance": protocol.sample_covariance}
    found = {}
    for name in names:
        pair = (prediction, target)
        if name == "psnr_gt_mean":
            pair = (_with_mean_of(prediction, target, sizes), target)
        if name.endswith("_y"):
            pair = tuple(map(metrics.luma, pair))
        if name.startswith("psnr"):
            found[name] = metrics.masked_psnr(*pair, sizes, protocol.border)
        else:
            found[name] = metrics.masked_ssim(*pair, sizes, protocol.border, **similarity)
    return found


def _with_mean_of(prediction: jax.Array, target: jax.Array, sizes: jax.Array) -> jax.Array:
    """Scale images so that their mean grey is the truth's, then clip.

    Grey as Pillow and OpenCV make it, as in the papers that align the mean brightness.
    """
    mask = metrics.inside(target.shape, sizes)

    def grey(image):
        return metrics.masked_mean(luma(image)[..., None], mask)

    scale = grey(target) / jnp.maximum(grey(prediction), 1e-6)
    return jnp.clip(prediction * scale[:, None, None, None], 0, 255)
