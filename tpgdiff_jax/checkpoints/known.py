"""Whether weights ask for what this version does not have, or for what their file cannot hold."""

from ml_collections import ConfigDict

from tpgdiff_jax.backbones.transformer import ACTIVATIONS
from tpgdiff_jax.config import check_values, get, require
from tpgdiff_jax.diffusion.irsde import SCHEDULES
from tpgdiff_jax.diffusion.prediction import PREDICTIONS
from tpgdiff_jax.diffusion.samplers import SAMPLERS
from tpgdiff_jax.keys.checks import text, tuple_of
from tpgdiff_jax.keys.table import KEYS
from tpgdiff_jax.models.stage_one import TEACHERS
from tpgdiff_jax.models.tpgdiff import ENCODERS, UNETS
from tpgdiff_jax.models.unet import REMAT
from tpgdiff_jax.precision import PRECISIONS
from tpgdiff_jax.priors.cues import CUES
from tpgdiff_jax.priors.degradation import CLASSIFICATIONS
from tpgdiff_jax.reporting.errors import UserError

# Choices that decide how weights are used: key -> the names known.
KNOWN = {
    "model.unet": UNETS,
    "model.prediction": PREDICTIONS,
    "model.remat": REMAT,
    "model.matmul_precision": PRECISIONS,
    "priors.encoder": ENCODERS,
    "priors.cues": CUES,
    "priors.classification": CLASSIFICATIONS,
    "priors.teacher": TEACHERS,
    "priors.clip.activation": ACTIVATIONS,
    "priors.depth_net.activation": ACTIVATIONS,
    "diffusion.schedule": SCHEDULES,
    "eval.sampler": SAMPLERS,
}


# Keys that say how many layers there are: each has weights of its own.
_LAYERS = (
    *("model.blocks", "model.middle_blocks", "priors.head_blocks", "priors.connector_depth"),
    *("priors.clip.layers", "priors.depth_net.layers", "priors.segmentation_net.depths"),
)


def check_known(config: ConfigDict) -> None:
    """Check the choices that decide how weights are used, and every value by itself.

    Args:
      config: of a description, see `published.described_config`.

    Raises:
      UserError: naming the key, its value and what this version knows, or expects.
    """
    check_values(config)
    names = tuple_of(text(), least=1)
    fits = names.fits(config.data.degradations)
    require(fits, config, "data.degradations", names.words)
    for key, known in KNOWN.items():
        value = get(config, key)
        for each in value if isinstance(value, tuple | list) else (value,):
            if not isinstance(each, str) or each not in known:
                raise UserError(f"{key} is {each!r}, known are {', '.join(known)}")


def check_depth(config: ConfigDict, tensors: int) -> None:
    """Check that networks have no more layers than a file has tensors: else they never end.

    Args:
      config: as for `check_known`, which it has passed.
      tensors: in the file.

    Raises:
      UserError: naming the key and its value.
    """
    for key in _LAYERS:
        value = get(config, key)
        layers = sum(value) if isinstance(value, tuple | list) else value
        # Networks that the system goes without have the layers of the default.
        is_used = value != KEYS[key].default
        expected = f"at most {tensors} layers, as many as the file has tensors"
        require(layers <= tensors or not is_used, config, key, expected)
