"""The released system: its sizes, its three priors, its diffusion.

Command:   python -m tpgdiff_jax.main --mode=convert --config=configs/released.py \\
               --input=universal-ir.pth --input=tpgd_ViT-B-32.pt --output=tpgdiff.safetensors
Purpose:   what weight files do not tell: heads of the CLIP towers, resolution of the cue maps, the
           diffusion, names of the degradations.  Change a key where your files differ.
Hardware:  any; converting needs about 4 GB of memory (not measured).
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.priors.encoder = "clip"
    config.priors.cues = ("depth", "segmentation", "dog")
    return config
