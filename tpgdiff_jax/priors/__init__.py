"""The three priors that guide the restoration of an image."""

import flax.struct
import jax


@flax.struct.dataclass
class Priors:
    """What is known of each image before it is restored; computed once, used at every step.

    Any field may be None: the branch is then left out.

    Attributes:
      degradation: what harmed the image, float [B, 512].
      semantic: what it shows, float [B, 512].
      structure: where things are, tokens float [B, 64, 256].
    """

    degradation: jax.Array | None = None
    semantic: jax.Array | None = None
    structure: jax.Array | None = None
