"""Score the weights that come with tpgdiff_jax on real pairs and photos degraded by fixed recipes.

Command:   python -m tpgdiff_jax.main --config=configs/eval_default.py --mode=eval \\
               --checkpoint=default --config.benchmark.root=FOLDER --output=runs/eval_default
Data:      FOLDER holds noise25_cbsd68, rain100h, haze_sots_indoor and real_noise_cc, each with LQ
           and GT, matched by name.  Sets that are absent are skipped and listed.
Purpose:   the table of the model card: whole images, protocol tpgdiff, the weights' own sampler and
           number of steps.  Clean photos are among the sets, since a restorer must leave them alone
           (their input has an infinite PSNR); dark ones are easily taken for low light.
Others:    --config.benchmark.steps="(1, 2, 4, 10)" for quality against cost,
           --config.benchmark.without=all for the priors; the folder of a training run, or any
           .safetensors file, instead of default.
Hardware:  any; about 330 images, of 0.15 megapixels most.
"""

import pathlib

from ml_collections import ConfigDict

from tpgdiff_jax.config import base_config

_UNLIKE = str(pathlib.Path(__file__).resolve().parent / "quickstart_photos" / "unlike")
_SYNTHESISED = ("low_light", "motion_blur", "defocus", "snow")


def get_config() -> ConfigDict:
    config = base_config()
    config.benchmark.root = "benchmarks"
    config.benchmark.metrics = ("psnr", "ssim", "psnr_y", "ssim_y", "lpips_alex")
    config.benchmark.sets = (
        _pairs("noise25_cbsd68", "CBSD68, sigma 25, every third", "noise"),
        _pairs("rain100h", "Rain100H, every fifth", "rain") | {"name": "rain100h_part"},
        _pairs("haze_sots_indoor", "SOTS indoor, part", "haze"),
        _pairs("real_noise_cc", "CC15, real camera noise", "camera_noise"),
        *(_photos(name, f"{name}, severity 3", name, recipe=f"{name}:3") for name in _SYNTHESISED),
        *(
            _photos(f"jpeg_{quality}", f"JPEG, quality {quality}", "jpeg", jpeg_quality=quality)
            for quality in (10, 20, 30)
        ),
        # Severity 0 leaves them as they are.
        _photos("clean", "clean photos", "", recipe="jpeg:0"),
        _photos("clean_dark", "clean photos, darker", "", "real_noise_cc", recipe="jpeg:0"),
        _unlike("unlike_clean", "unlike photographs, clean", "", recipe="jpeg:0"),
        _unlike("unlike_noise", "unlike photographs, sigma 15", "noise", sigma=15.0),
        _unlike("unlike_jpeg", "unlike photographs, JPEG 30", "jpeg", jpeg_quality=30),
    )
    return config


def _pairs(name: str, title: str, degradation: str) -> dict[str, str]:
    return {"name": name, "folder": name, "title": title, "degradation": degradation}


def _photos(
    name: str, title: str, degradation: str, folder: str = "noise25_cbsd68", **how
) -> dict[str, str | int | float]:
    """Clean photos of a set, degraded (or left alone) in one way; the name decides the details."""
    fields = {"name": name, "title": title, "degradation": degradation, "folder": folder}
    return fields | {"layout": "clean", "gt": "GT"} | how


def _unlike(name: str, title: str, degradation: str, **how) -> dict[str, str | int | float]:
    """Pages, drawings and the like, which lie beside this file."""
    return _photos(name, title, degradation, _UNLIKE, **how) | {"gt": ""}
