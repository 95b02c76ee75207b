"""Restore again what a restoration still shows to be degraded.

A network that restores in one call removes what it sees first: noise hides that a picture is dark,
rain that it is hazy.  Its answer shows that plainly, and a second call removes it.  Pictures that
are done are left alone, since each further call costs them some detail.
"""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.reporting.errors import UserError

# What a second call removes.  Blurs, JPEG and camera noise are named of restored pictures that are
# merely soft, and a second call then costs more than it brings (MODEL_CARD.md has the figures).
REPEATED = ("noise", "rain", "haze", "low_light", "snow")


@dataclasses.dataclass(frozen=True)
class Passes:
    """How often images are restored in a row.

    Attributes:
      most: at most so often.
      classes: of the degradation classifier; a further pass follows where the result of the last
        one still shows one of them.
    """

    most: int = 1
    classes: tuple[int, ...] = ()

    @classmethod
    def of(cls, most: int, config: ConfigDict) -> "Passes":
        """Take the classes of `REPEATED` from what the weights were trained with.

        Raises:
          UserError: several passes, and no classifier that can call an image clean.
        """
        if most == 1:
            return ONCE
        if why := hindrance(config):
            raise UserError(
                f"passes={most}: these weights cannot tell when a picture is done: {why}; use "
                "passes=1."
            )
        names = config.data.degradations
        return cls(most, tuple(names.index(name) for name in REPEATED if name in names))

    def filled(self) -> np.ndarray:
        """Return the classes filled up with -1, so that one program serves all numbers of passes.

        Returns:
          int32 [len(REPEATED)].
        """
        return np.array(self.classes + (-1,) * (len(REPEATED) - len(self.classes)), np.int32)


ONCE = Passes()


def hindrance(config: ConfigDict) -> str:
    """Return why weights of a configuration allow one pass only; "" where they allow several."""
    if not tpgdiff.has_classifier(config):
        return "they have no classifier that names degradations"
    if config.priors.classification != "multi":
        return (
            "their classifier names one degradation of every picture, also of a clean one "
            f"(priors.classification {config.priors.classification!r}; it takes 'multi')"
        )
    return ""


def shown(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Tell which images show one of some classes.

    Args:
      logits: of the classifier, [B, classes].
      classes: of `Passes.filled`; may be traced.

    Returns:
      bool [B].
    """
    return ((logits[:, classes] > 0) & (classes >= 0)).any(axis=1)
