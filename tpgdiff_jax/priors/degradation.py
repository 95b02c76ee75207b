"""The degradation prior: what degraded an image.

A backbone looks at the degraded image; a head that classifies the degradation teaches it (TPGDiff,
arXiv 2601.20306).  Stage two consumes the backbone's vector, not the classes: it grades, they sort.
Beyond the paper, several degradations at once: one sigmoid for each instead of one softmax for all.
"""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.conv_tower import ConvTower
from tpgdiff_jax.backbones.convolution import Dense
from tpgdiff_jax.backbones.transformer import geglu, layer_norm
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.backbones.vit import ClipImageTower
from tpgdiff_jax.reporting.errors import require_known

CLASSIFICATIONS = ("single", "multi")
NOTHING = "nothing"  # what a classifier of several degradations at once calls an image of none


class GegluBlock(TypedModule):
    """x + Dense(dropout(value * gelu(gate))) of the normalised input."""

    ratio: int = 4
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool = True) -> jax.Array:
        features = x.shape[-1]
        exact = {"exact": True, **self.dtypes}
        h = layer_norm("norm", 1e-5, jnp.float32, self.param_dtype)(x)
        h = geglu(Dense(2 * self.ratio * features, name="dense_in", **exact)(h))
        h = nn.Dropout(self.dropout)(h, deterministic=deterministic)
        return x + Dense(features, name="dense_out", **exact)(h)


class DegradationPrior(TypedModule):
    """Name the degradations of images.

    Attributes:
      backbone: looks at the degraded image; may start from CLIP's weights.
      num_classes: number of degradations.
      blocks: number of GEGLU blocks in the head.
      dropout: share of the head's hidden values dropped in training.
    """

    backbone: ClipImageTower | ConvTower
    num_classes: int
    blocks: int = 2
    dropout: float = 0.1

    @nn.compact
    def __call__(self, view: jax.Array, deterministic: bool = True) -> tuple[jax.Array, jax.Array]:
        """Look at degraded images.

        Args:
          view: degraded images as the backbone looks at them, float [B, S, S, 3]; see its `view`.
          deterministic: no dropout; else the random stream `dropout` must be given.

        Returns:
          features [B, backbone.features] (not of unit length) and logits [B, num_classes], float32.
        """
        features = self.backbone(view)
        x = features
        for index in range(self.blocks):
            x = GegluBlock(dropout=self.dropout, name=f"block_{index}", **self.dtypes)(
                x, deterministic
            )
        logits = Dense(self.num_classes, exact=True, name="classes", **self.dtypes)(x)
        return features, logits


def classification_loss(
    logits: jax.Array, label: jax.Array, *, kind: str = "single", smoothing: float = 0.01
) -> jax.Array:
    """Return how wrong the classifier is about each example.

    Args:
      logits: float [B, K].
      label: which degradations are present, 0 or 1, [B, K]; or, where each image has exactly one,
        its class number, int [B]; from K on it is of none, of which `single` learns nothing.
      kind: `single`, cross-entropy of a softmax (the paper); `multi`, binary cross-entropy of
        independent sigmoids, averaged over the classes, for images degraded in several ways.
      smoothing: share of the truth spread evenly (arXiv 1512.00567 Section 7).

    Returns:
      float32 [B].

    Raises:
      UserError: an unknown kind.
    """
    import optax  # here, since it takes a while and restoring has no loss

    logits = logits.astype(jnp.float32)
    require_known("priors.classification", kind, CLASSIFICATIONS)
    rows = jax.nn.one_hot(label, logits.shape[-1]) if label.ndim == 1 else label
    rows = rows.astype(jnp.float32)
    if kind == "multi":
        target = rows * (1 - smoothing) + smoothing / 2
        return optax.sigmoid_binary_cross_entropy(logits, target).mean(axis=-1)
    is_known = rows.sum(axis=-1)
    return is_known * optax.softmax_cross_entropy(logits, optax.smooth_labels(rows, smoothing))


def accuracy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Return the share of right answers: classes [B], or single yes-no answers [B, K]."""
    right = logits.argmax(axis=-1) == label if label.ndim == 1 else (logits > 0) == (label > 0)
    return right.astype(jnp.float32).mean()


def verdict(probabilities: Mapping[str, float], kind: str = "single") -> tuple[str, float]:
    """Say in one word what a classifier takes an image for.

    Args:
      probabilities: name of each degradation -> its probability.
      kind: `single`, the likeliest; `multi`, all above one half, joined as in "haze+rain", or
        `NOTHING`.

    Returns:
      (the answer, the probability of just this answer).
    """
    if kind == "multi":
        # Independent yes-no answers: that all of them are right.
        chance = math.prod(max(value, 1 - value) for value in probabilities.values())
        return "+".join(n for n, value in probabilities.items() if value > 0.5) or NOTHING, chance
    return max(probabilities.items(), key=lambda pair: pair[1])


def class_probabilities(logits: jax.Array, kind: str = "single") -> jax.Array:
    """Return the probability of each degradation [..., K]; see `classification_loss` for `kind`."""
    logits = logits.astype(jnp.float32)
    return jax.nn.sigmoid(logits) if kind == "multi" else jax.nn.softmax(logits)


def named_probabilities(logits: jax.Array, names: Sequence[str], kind: str) -> dict[str, float]:
    """Return name -> probability of each degradation of an image, the likeliest first.

    Args:
      logits: of the image, [K].
      names: of the degradations.
      kind: as for `classification_loss`.
    """
    named = zip(names, map(float, class_probabilities(logits, kind)), strict=True)
    return dict(sorted(named, key=lambda pair: -pair[1]))
