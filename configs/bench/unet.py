"""The full-width UNet (49.74 M parameters) on one 256x256 image, as the released program trains it.

Run: python launch/bench model
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.data.batch_size = 1
    config.data.crop_size = 256
    return config
