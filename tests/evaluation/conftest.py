"""A tiny system and small test sets."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.config import base_config
from tpgdiff_jax.evaluation.job import System
from tpgdiff_jax.models import tpgdiff

SIZES = ((48, 56), (48, 56), (40, 50), (56, 48), (48, 56))


@pytest.fixture(scope="session")
def tiny_system(random_params):
    """A `System` with random weights: 2 steps, all three priors, two degradations."""
    config = base_config()
    config.model.update({"width": 16, "multipliers": (2, 2), "attention_heads": 1, "head_dim": 16})
    config.model.update({"prediction": "v", "identity_init": True})
    config.priors.update({"encoder_width": 4, "map_size": 16, "map_width": 2, "map_max_width": 4})
    config.priors.update({"tokens": 4, "connector_depth": 0})
    config.data.degradations = ("noise", "rain")
    config.eval.steps = 2
    model = tpgdiff.build(config)
    image = jnp.zeros((1, 16, 16, 3))
    params = random_params(model, image, image, jnp.ones(1))
    params["unet"]["final_conv"]["kernel"] *= 0.05
    return System(model, {"params": params, "frozen": {}}, config)


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory):
    """A folder with a set of pairs (`pairs/LQ`, `pairs/GT`) and one of clean photos (`clean`)."""
    root, rng = tmp_path_factory.mktemp("benchmarks"), np.random.default_rng(0)
    for index, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(40, 216, (6, 7, 3), np.uint8))
        gt = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        lq = np.clip(gt + rng.normal(0, 12, gt.shape), 0, 255).astype(np.uint8)
        for name, image in (("pairs/LQ", lq), ("pairs/GT", gt), ("clean", gt)):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def benchmark_config(benchmarks):
    """A configuration that scores both sets: plain scores only."""
    config = base_config().unlock()
    config.benchmark.update({"root": str(benchmarks), "metrics": ("psnr", "ssim", "psnr_y")})
    config.benchmark.sets = (
        {"name": "pairs", "folder": "pairs", "degradation": "rain"},
        {
            "name": "noisy",
            "folder": "clean",
            "layout": "clean",
            "gt": "",
            "sigma": 25.0,
            "protocol": "promptir",
            "degradation": "noise",
        },
    )
    return config
