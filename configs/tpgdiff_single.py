"""One model per task, for the paper's nine single degradations: tpgdiff_single.py:TASK.

Command:   python -m tpgdiff_jax.main --config=configs/tpgdiff_single.py:desnow \\
               --workdir=runs/desnow --config.priors.weights=frozen.safetensors \\
               --config.data.train_sources='("pairs:/data/desnow",)' \\
               --config.data.eval_folder=OTHER_PHOTOS
           Tasks: see `TASKS` below.  pairs:FOLDER holds NAME/LQ and NAME/GT, NAME being the
           task's degradation; data.train_folder=PHOTOS makes them on the fly.
Hardware:  as configs/tpgdiff_5d.py.
Expected:  the paper's figures, listed with each task; not measured: no such hardware or data were
           at hand.

With one degradation there is nothing to classify, so stage one would teach the degradation prior
nothing; it is left out, and the semantic prior stays (CLIP's own weights, or a student's).
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config

# Task -> (degradation, the paper's test set and score, arXiv 2601.20306).
TASKS = {
    "low_light": ("low_light", "LOL-v2: 24.77 dB / 0.880"),
    "dehaze_dense": ("haze_patchy", "NH-HAZE: 18.14 dB / 0.645"),
    "dehaze": ("haze", "RESIDE: 32.87 dB / 0.979"),
    "demoire": ("moire", "RDNet: 26.40 dB / 0.910"),
    "derain": ("rain", "Rain100L: 40.12 dB / 0.986"),
    "desnow": ("snow", "WeatherBench: 28.17 dB / 0.836"),
    "raindrop": ("raindrops", "RainDrop: 32.29 dB / 0.923"),
    "defocus": ("defocus", "DPDD: 26.85 dB / 0.816"),
    "decloud": ("cloud_thick", "RS-Cloud: 38.37 dB / 0.954"),
}


def get_config(task: str = "derain") -> ConfigDict:
    if task not in TASKS:
        raise ValueError(f"task {task!r} is unknown; expected one of {', '.join(TASKS)}")
    config = base_config()
    config.priors.encoder = "clip"
    config.priors.cues = ("depth", "segmentation", "dog")
    config.model.use_degradation = False
    config.model.remat = "attention"
    config.data.degradations = (TASKS[task][0],)
    config.data.workers = 8
    config.eval.every_steps = 20_000
    return config
