"""A model under 32 MB that restores five degradations: for laptops, and to try ideas.

Command:   python -m tpgdiff_jax.main --config=configs/tpgdiff_small.py \\
               --config.data.train_folder=PHOTOS --config.data.eval_folder=OTHER_PHOTOS
Hardware:  one GPU, or two CPU cores with a smaller patch and fewer steps:
           --config.data.crop_size=48 --config.optim.steps=1500
Expected:  a gain on every degradation.  docs/measured.md has what was measured; not measured on a
           GPU.

The recipe is the quickstart's (see there why); the network is wider, trains longer on larger
patches, and now and then does without a prior, so that each may be missing in use.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.model.width = 32
    config.model.multipliers = (1, 2, 4)
    config.model.attention_heads = 2
    config.model.head_dim = 32
    config.model.first_attention_level = 1
    config.model.prediction = "x0"
    config.model.identity_init = True
    config.model.dropout_degradation = 0.1
    config.model.dropout_semantic = 0.1
    config.model.dropout_structure = 0.1
    config.priors.label_smoothing = 0.0
    config.priors.map_size = 64
    config.priors.map_width = 8
    config.priors.map_max_width = 64
    config.priors.tokens = 16
    config.priors.connector_depth = 1
    config.diffusion.max_sigma = 15.0
    config.data.crop_size = 128
    config.data.tone_jitter = 0.2
    config.loss.objective = "residual"
    config.loss.time_power = 20.0
    config.loss.relative_power = 1.0
    config.loss.classification_weight = 0.5
    config.optim.name = "muon"
    config.optim.steps = 60_000
    config.optim.learning_rate = 1e-2
    config.optim.warmup_steps = 50
    config.optim.clip_norm = 1.0
    config.optim.non_finite = "skip"
    config.ema.decay = 0.99
    config.ema.every_steps = 1
    config.ema.start_step = 0
    config.ema.more_decays = (0.999,)
    config.log.every_steps = 20
    config.checkpoint.every_steps = 500
    config.eval.steps = 4
    config.eval.crop_size = 256
    config.eval.every_steps = 1000
    return config
