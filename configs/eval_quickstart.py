"""Score the quickstart's model on the bundled photos it never saw, degraded in five ways.

Command:   bash launch/quickstart.sh
           python -m tpgdiff_jax.main --config=configs/quickstart.py --mode=export \\
               --output=runs/quickstart.safetensors
           python -m tpgdiff_jax.main --config=configs/eval_quickstart.py --mode=eval \\
               --checkpoint=runs/quickstart.safetensors --output=runs/eval_quickstart
Purpose:   a benchmark that needs nothing but this repository; its sets show the fields of an entry.
Hardware:  any; a few minutes on two CPU cores with --config.benchmark.without=all, less without.
"""

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()
    config.benchmark.root = "configs/quickstart_photos"
    config.benchmark.bucket = 64
    config.benchmark.metrics = ("psnr", "ssim", "psnr_y", "ssim_y", "lpips_alex")
    photos = {"folder": "eval", "layout": "clean", "gt": ""}
    config.benchmark.sets = (
        {"name": "noise", "title": "noise, sigma 25", "degradation": "noise", "sigma": 25.0}
        | photos,
        *(
            {"name": name, "degradation": name, "recipe": f"{name}:3"} | photos
            for name in ("blur", "low_light", "haze", "rain")
        ),
    )
    return config
