"""The diffs of docs/adding.md apply to the package as it stands, and what they add works."""

import os
import shutil
import subprocess
import sys

import pages
import pytest

PAGE = pages.ROOT / "docs" / "adding.md"
CHECK = """
import jax
import jax.numpy as jnp
import numpy as np

import tpgdiff_jax
from tpgdiff_jax.commands.config_checks import validate
from tpgdiff_jax.config import base_config
from tpgdiff_jax.data.degradations.mix import degrade, parse
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.samplers import sample, step_coefficients, step_times
from tpgdiff_jax.priors.structural import StructuralPrior

# The degradation.
image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
np.testing.assert_array_equal(degrade(image, parse("fading:0")), image)
change = [np.abs(degrade(image, parse(f"fading:{s}")) - image.astype(float)).mean() for s in (1, 4)]
assert 0 < change[0] < change[1]
assert parse("jpeg + fading + rain").name == "rain+fading+jpeg"

# The cue.
lq = jnp.asarray(image[None], jnp.float32) / 255
prior = StructuralPrior(
    cues=("dog", "saturation"), image_size=32, encoder_width=4, encoder_max_width=8, features=16,
    num_latents=4, connector_depth=0,
)
tokens, variables = jax.jit(prior.init_with_output)(jax.random.key(0), lq)
assert tokens.shape == (1, 4, 16) and "modality_saturation" in variables["params"]
grey = jnp.broadcast_to(lq.mean(axis=-1, keepdims=True), lq.shape)
assert jnp.abs(jax.jit(prior.apply)(variables, grey) - tokens).max() > 0

# The sampler: with a network that knows the truth, every sampler ends at it; and half the noise.
sde, truth = IRSDE(), jnp.full(lq.shape, 0.25)
known = {"prediction": "x0", "denoise": lambda x_t, mu, t: truth - mu}
found = sample("half", sde=sde, mu=lq, key=jax.random.key(0), steps=5, **known)
np.testing.assert_allclose(found, truth, atol=1e-6)
half, whole = (step_coefficients(name, sde, step_times(sde, 5)) for name in ("half", "posterior"))
np.testing.assert_allclose(half[:, 3], whole[:, 3] / 2)

with base_config().unlocked() as config:
    config.data.degradations = ("noise", "fading")
    config.priors.cues = ("dog", "saturation")
    config.eval.sampler = "half"
validate(config)
print(tpgdiff_jax.__file__)
"""


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """Return a copy of the package with every diff applied."""
    folder = tmp_path_factory.mktemp("adding")
    leave_out = shutil.ignore_patterns("assets", "__pycache__")
    shutil.copytree(pages.ROOT / "tpgdiff_jax", folder / "tpgdiff_jax", ignore=leave_out)
    for text in pages.blocks(PAGE, "diff"):
        done = subprocess.run(
            ["git", "apply", "-C1", "-"],
            input=text,
            cwd=folder,
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    return folder


def test_what_the_diffs_add_works(patched):
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=patched,
        env=os.environ | {"PYTHONPATH": str(patched), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(patched))


def test_there_is_a_diff_for_each_kind():
    assert len(pages.blocks(PAGE, "diff")) == 3
