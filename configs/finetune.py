"""Train finished weights on, with photos or pairs of your own.

Command:   python -m tpgdiff_jax.main --config=configs/finetune.py --workdir=runs/mine \\
               --config.data.train_sources='("pairs:PAIRS/train?class_name=other",)' \\
               --config.data.eval_folder='pairs:PAIRS/test?class_name=other'
           PAIRS/train and PAIRS/test hold LQ and GT, matched by name; `other` says that none of the
           weights' degradations describes them.  Clean photos beside them, here three of ten
           examples, keep alive part of what the weights know:
               --config.data.train_sources='("pairs:PAIRS/train?class_name=other*0.7",
               "photos:PHOTOS*0.3")'
Weights:   those of the package; configs/finetune.py:FILE for other published ones.  What they are
           built of is read from their description, so that it cannot differ.
Hardware:  any; on two CPU cores about a second a step (docs/training.md has a measured example).
Result:    runs/mine/weights.safetensors, for --checkpoint.  The picture of the first validation
           shows what the weights did before.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.models import tpgdiff


def get_config(weights: str = published.DEFAULT) -> ConfigDict:
    path = published.weights_in(weights)
    config = published.described_config(published.load(path, ())[0], path)
    config.stage = "diffusion"
    config.init_from = weights
    if tpgdiff.frozen_networks(tpgdiff.build(config)):
        config.priors.weights = weights
    config.data.crop_size = 128
    config.data.batch_size = 8
    config.data.tone_jitter = 0.2
    config.data.severity = (0.5, 5.0)
    if config.priors.classification == "multi":
        config.data.max_mixed = min(3, len(config.data.degradations))
        config.data.mix_share = 0.2
        config.data.clean_share = 0.06
        config.data.dark_share = 0.15
    if config.eval.steps == 1:  # as the package's weights, which restore in one call
        config.loss.objective = "residual"
        config.loss.distance = "log_l2"
        config.loss.first_step_share = 0.9
    config.optim.name = "muon"
    config.optim.steps = 1000
    config.optim.learning_rate = 1.5e-3
    config.optim.warmup_steps = 20
    config.optim.clip_norm = 1.0
    config.optim.non_finite = "skip"
    config.ema.decay = 0.99
    config.ema.every_steps = 1
    config.ema.start_step = 0
    config.checkpoint.every_steps = 100
    config.log.every_steps = 20
    config.eval.every_steps = 250
    return config
