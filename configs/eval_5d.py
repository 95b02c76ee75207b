"""Score published weights on the five-degradation benchmark, beside the numbers of the papers.

Command:   python -m tpgdiff_jax.main --config=configs/eval_5d.py --mode=eval \\
               --checkpoint=FILE.safetensors --output=FOLDER
           The same command goes on where it was interrupted.
Data:      below benchmarks/ (--config.benchmark.root=DIR): LOL, GoPro, Rain100L, SOTS outdoor and
           BSD68; where to get each, and how it must lie, is said of every set that is absent.
Hardware:  any; all devices of all processes are used.  Not yet run on the whole sets.
Others:    --predictions=FOLDER instead of --checkpoint scores somebody else's outputs;
           --config.benchmark.without=all switches off every subset of the priors in turn;
           --config.benchmark.steps="(4, 10, 20)" and .samplers sweep.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.benchmark.sets = ("five",)
    return config
