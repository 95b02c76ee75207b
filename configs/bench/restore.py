"""A small system for timing restoration on a CPU: nf 8, no self-attention over all pixels.

Command:   python launch/bench restore
Hardware:  two CPU cores; the largest picture takes minutes.
Expected:  docs/measured.md has the figures.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.model.width = 8
    config.model.multipliers = (1, 2, 4)
    config.model.attention_heads = 1
    config.model.head_dim = 8
    config.model.first_attention_level = 1
    config.model.use_semantic = False
    config.model.prediction = "x0"
    config.model.identity_init = True
    config.priors.map_size = 32
    config.priors.map_width = 8
    config.priors.map_max_width = 64
    config.priors.tokens = 16
    config.priors.connector_depth = 0
    config.eval.steps = 10
    return config
