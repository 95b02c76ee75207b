"""The three priors that guide the restoration of an image."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

BRANCHES = ("degradation", "semantic", "structure")


@flax.struct.dataclass
class Priors:
    """What is known of each image before it is restored; computed once, used at every step.

    Any field may be None: the branch is then left out.

    Attributes:
      degradation: what degraded the image, float [B, 512].
      semantic: what it shows, float [B, 512].
      structure: where things are, tokens float [B, 64, 256].
      present: 1 where an image's prior takes part and 0 where it is withheld as if it were None,
        float [B, 3] in the order above; None: all that are given take part.
    """

    degradation: jax.Array | None = None
    semantic: jax.Array | None = None
    structure: jax.Array | None = None
    present: jax.Array | None = None

    def share(self, name: str, ndim: int, dtype: Any = jnp.float32) -> jax.Array | float:
        """Return the weight [B, 1, ...] with which a prior's contribution counts.

        Args:
          name: of the field.
          ndim, dtype: of the contribution.
        """
        if self.present is None:
            return 1.0
        column = self.present[:, BRANCHES.index(name)]
        return column.reshape(-1, *[1] * (ndim - 1)).astype(dtype)
