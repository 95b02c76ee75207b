"""A small TPGDiff that learns on two CPU cores within minutes, and restores photos it never saw.

Command:   bash launch/quickstart.sh
Hardware:  two CPU cores (peak memory not measured); at most 6 minutes after the installation.
Expected:  a mean gain of at least 1.5 dB, no degradation more than 0.5 dB below its input.
           docs/measured.md has the figures.

What makes so short a training work, found by trying: predicting x0 from little noise; nearly all
training times close to T, where only the degraded image informs; Muon, since with Adam brightness
drowned noise and streaks for all 900 steps tried; relative errors, since otherwise darkness drowns
blur; a start at the identity; photos of varied tone, since three photos have no dark sky, and a
dark sky was then taken for low light.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.model.width = 16
    config.model.multipliers = (1, 2, 4)
    config.model.attention_heads = 1
    config.model.head_dim = 16
    config.model.first_attention_level = 1
    config.model.prediction = "x0"
    config.model.identity_init = True
    config.priors.label_smoothing = 0.0
    config.priors.map_size = 32
    config.priors.map_width = 8
    config.priors.map_max_width = 64
    config.priors.tokens = 16
    config.priors.connector_depth = 0
    config.diffusion.max_sigma = 15.0
    config.data.train_folder = "configs/quickstart_photos/train"
    config.data.eval_folder = "configs/quickstart_photos/eval"
    config.data.crop_size = 48
    config.data.tone_jitter = 0.8
    config.loss.objective = "residual"
    config.loss.time_power = 20.0
    config.loss.relative_power = 1.0
    config.loss.classification_weight = 0.5
    config.optim.name = "muon"
    config.optim.steps = 550
    config.optim.learning_rate = 1e-2
    config.optim.warmup_steps = 10
    config.optim.clip_norm = 1.0
    config.ema.decay = 0.97
    config.ema.every_steps = 1
    config.ema.start_step = 0
    config.log.every_steps = 20
    config.checkpoint.every_steps = 100
    config.eval.steps = 4
    config.eval.crop_size = 128
    return config
