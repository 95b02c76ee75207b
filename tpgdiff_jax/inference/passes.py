"""Restore again what a restoration still shows to be degraded.

A network that restores in one call removes what it sees first: noise hides that a picture is dark,
rain that it is hazy.  Its answer shows that plainly, and a second call removes it.  Pictures that
are done are left alone, since each further call costs them some detail.
"""

import dataclasses

import jax
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
        kind = config.priors.classification if tpgdiff.has_classifier(config) else "none"
        if kind != "multi":
            raise UserError(
                f"passes={most}: these weights cannot tell when a picture is done (that takes "
                f"priors.classification 'multi', they have {kind!r}); use passes=1."
            )
        names = config.data.degradations
        return cls(most, tuple(names.index(name) for name in REPEATED if name in names))

    def shown(self, logits: jax.Array) -> jax.Array:
        """Tell which images show one of the classes, bool [B], by the classifier's logits."""
        return (logits[:, list(self.classes)] > 0).any(axis=1)


ONCE = Passes()
