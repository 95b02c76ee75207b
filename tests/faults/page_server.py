"""A page as a process of its own: python page_server.py HOST PORT.

Limits are small, so that attacks need not be large; and nothing is restored, so that no program is
compiled: each picture takes a moment and comes back as it is.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from tpgdiff_jax.app import server
from tpgdiff_jax.app.limits import Limits
from tpgdiff_jax.config import base_config
from tpgdiff_jax.inference.input_images import InputImage, Restored
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.stepwise import Watch
from tpgdiff_jax.models import tpgdiff

LIMITS = Limits(
    file_bytes=4 * 2**20,
    pixels=300_000,
    side=2048,
    waiting=20,
    stalled_seconds=3,
    upload_seconds=20,
    held_bytes=256 * 2**20,
)


class QuickRestorer(Restorer):
    """Gives back what it gets."""

    def iterate(
        self, images: Iterable[InputImage], *, watch: Watch, **options: Any
    ) -> Iterator[Restored]:
        """Yield pictures as they are, each after a moment; see `Restorer.iterate`."""
        for image in images:
            watch(0, 1)
            time.sleep(0.05)
            watch(1, 1)
            yield Restored(image.rebuild(image.rgb), None, {})


def quick_restorer() -> Restorer:
    """Return it with the smallest configuration that the page can show."""
    config = base_config()
    config.model.update({"width": 16, "multipliers": (2, 2), "attention_heads": 1, "head_dim": 16})
    config.model.update({"use_degradation": False, "use_semantic": False, "use_structure": False})
    config.priors.encoder = "none"
    config.eval.steps = 1
    model = tpgdiff.build(config)
    image = jnp.zeros((1, 16, 16, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), image, image, jnp.ones(1))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return QuickRestorer(model, {"params": zeros["params"], "frozen": {}}, config)


if __name__ == "__main__":
    with server.listening(sys.argv[1], int(sys.argv[2])) as ear:
        server.serve(quick_restorer(), ear, LIMITS)
