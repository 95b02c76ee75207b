"""The semantic prior: what an image shows, seen through whatever degraded it.

A student that looks at the degraded image learns to answer what a frozen teacher answers for the
clean one (TPGDiff, arXiv 2601.20306).  Stage two consumes the student's vector.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.conv_tower import ConvTower
from tpgdiff_jax.backbones.vit import ClipImageTower


class SemanticPrior(nn.Module):
    """Say what degraded images show.

    Attributes:
      student: looks at the degraded image; may start from CLIP's weights.
    """

    student: ClipImageTower | ConvTower

    @nn.compact
    def __call__(self, view: jax.Array) -> jax.Array:
        """Embed.

        Args:
          view: degraded images as the student looks at them, float [B, S, S, 3]; see its `view`.

        Returns:
          float32 [B, features], unit length.
        """
        return unit_length(self.student(view))


def unit_length(vector: jax.Array) -> jax.Array:
    """Scale vectors [..., C] to length 1, in float32; zeros stay zeros."""
    vector = vector.astype(jnp.float32)
    squares = jnp.square(vector).sum(axis=-1, keepdims=True)
    # The root of a sum kept away from zero has a finite gradient everywhere.
    return vector * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def distillation_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Return 1 - cos(student, teacher) of each example.

    Args:
      student: the student's vectors for the degraded images, [B, C].
      teacher: the teacher's for the clean ones, [B, C]; no gradient flows into them.

    Returns:
      float32 [B] in [0, 2].
    """
    teacher = jax.lax.stop_gradient(unit_length(teacher))
    return 1 - (unit_length(student) * teacher).sum(axis=-1)
