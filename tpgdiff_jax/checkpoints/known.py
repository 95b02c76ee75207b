"""Whether weights ask for something that this version does not have: a value of a later one."""

from ml_collections import ConfigDict

from tpgdiff_jax.config import get
from tpgdiff_jax.diffusion.prediction import PREDICTIONS
from tpgdiff_jax.diffusion.samplers import SAMPLERS
from tpgdiff_jax.models.tpgdiff import ENCODERS
from tpgdiff_jax.priors.cues import CUES
from tpgdiff_jax.priors.degradation import CLASSIFICATIONS
from tpgdiff_jax.reporting.errors import UserError

_KNOWN = {
    "model.prediction": PREDICTIONS,
    "priors.encoder": ENCODERS,
    "priors.cues": CUES,
    "priors.classification": CLASSIFICATIONS,
    "eval.sampler": SAMPLERS,
}


def check_known(config: ConfigDict) -> None:
    """Check the choices that decide how weights are used.

    Args:
      config: of a description, see `published.described_config`.

    Raises:
      UserError: naming the key, its value and what this version knows.
    """
    for key, known in _KNOWN.items():
        value = get(config, key)
        for each in (value,) if isinstance(value, str) else value:
            if each not in known:
                raise UserError(f"{key} is {each!r}, known are {', '.join(known)}")
