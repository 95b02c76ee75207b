"""Mixtures: up to three degradations at once, made on the fly, each named by the classifier.

Command:   python -m tpgdiff_jax.main --config=configs/tpgdiff_mixed.py --workdir=runs/mixed \\
               --config.priors.weights=frozen.safetensors --config.data.train_folder=PHOTOS \\
               --config.data.eval_folder=OTHER_PHOTOS
           frozen.safetensors holds CLIP, Depth-Anything-Small and SegFormer-B0 (--mode=convert).
Hardware:  as configs/tpgdiff_5d.py.
Expected:  nothing is published for this mixture; CDD-11's eleven can be scored (--mode=prepare with
           the preset cdd11).  Not measured.

Beyond the paper: a sigmoid per degradation instead of one softmax, and priors that are withheld now
and then, so that the strength of each can be chosen in use.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config

_DEGRADATIONS = (
    "low_light",
    "haze",
    "rain",
    "snow",
    "blur",
    "noise",
    "jpeg",
)


def get_config() -> ConfigDict:
    config = base_config()
    config.stage = "both"
    config.priors.encoder = "clip"
    config.priors.classification = "multi"
    config.priors.cues = ("depth", "segmentation", "dog")
    config.model.dropout_degradation = 0.1
    config.model.dropout_semantic = 0.1
    config.model.dropout_structure = 0.1
    config.model.remat = "attention"
    config.data.degradations = _DEGRADATIONS
    config.data.max_mixed = 3
    config.data.workers = 8
    config.eval.every_steps = 20_000
    return config
