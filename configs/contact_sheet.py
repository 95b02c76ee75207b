"""Every degradation at two severities, and some mixtures, on one sheet.

Command:   python -m tpgdiff_jax.main --mode=prepare --preview --config=configs/contact_sheet.py \\
               --input=configs/quickstart_photos/train --output=sheet.jpg
           Without --preview the same command writes a paired test set to the folder --output.
Hardware:  any; seconds.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config
from tpgdiff_jax.data.degradations.registry import DEGRADATIONS

_MIXTURES = ("low_light + haze + rain", "haze + snow", "blur + noise + jpeg")


def get_config() -> ConfigDict:
    config = base_config()
    config.data.degradations = tuple(DEGRADATIONS)
    config.prepare.recipes = (*DEGRADATIONS, *_MIXTURES)
    config.prepare.severities = (2.0, 4.5)
    return config
