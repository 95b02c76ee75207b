"""Parts that several networks and scores share."""

import jax.numpy as jnp
import numpy as np
from PIL import Image

from tpgdiff_jax.backbones.preprocessing import luma
from tpgdiff_jax.backbones.transformer import geglu


def test_the_second_half_of_the_channels_gates_the_first():
    # gelu(3) = 3 Phi(3), exactly and not by tanh.
    out = geglu(jnp.array([[2.0, -1.0, 3.0, 0.0]]))
    np.testing.assert_allclose(out, [[2 * 3 * 0.9986501, 0.0]], rtol=1e-6)


def test_luma_is_the_grey_of_pillow():
    image = np.random.default_rng(0).integers(0, 256, (2, 7, 5, 3), np.uint8)
    grey = np.stack([np.asarray(Image.fromarray(each).convert("L")) for each in image])
    assert luma(image).shape == (2, 7, 5)
    np.testing.assert_allclose(luma(image), grey, atol=0.51)
