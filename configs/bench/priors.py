"""The released system at full size on one 256x256 image: its priors against one UNet call.

Run: python launch/bench priors
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.priors.encoder = "clip"
    config.priors.cues = ("depth", "segmentation", "dog")
    config.data.batch_size = 1
    config.data.crop_size = 256
    return config
