"""A small TPGDiff that learns on two CPU cores within minutes, and restores photos it never saw."""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.model.width = 16
    config.model.multipliers = (1, 2, 2, 4)
    config.model.attention_heads = 2
    config.model.head_dim = 16
    config.model.prediction = "x0"
    config.model.zero_init = True
    config.priors.map_size = 32
    config.priors.map_width = 8
    config.priors.map_max_width = 64
    config.priors.connector_depth = 0
    config.data.train_folder = "configs/quickstart_photos/train"
    config.data.eval_folder = "configs/quickstart_photos/eval"
    config.data.crop_size = 64
    config.loss.objective = "residual"
    config.optim.steps = 600
    config.optim.learning_rate = 2e-3
    config.optim.clip_norm = 1.0
    config.log.every_steps = 20
    config.checkpoint.every_steps = 100
    config.eval.steps = 5
    return config
