"""Restore batches of images with a trained system."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.models.tpgdiff import TPGDiff


@functools.partial(
    jax.jit, static_argnames=("model", "sde", "sampler", "steps", "prediction", "clamp")
)
def restore_batch(
    variables: Any,
    lq: jax.Array,
    keys: jax.Array,
    *,
    model: TPGDiff,
    sde: IRSDE,
    sampler: str,
    steps: int,
    prediction: str,
    clamp: bool = False,
) -> jax.Array:
    """Restore images: priors once, then one compiled loop over the sampler's steps.

    Args:
      variables: the system's {"params", "frozen"}; `params` the running average of a trained run.
      lq: degraded images, uint8 [B, H, W, 3].
      keys: one random key per image [B]; an image's result depends on its own key only.
      model, sde: the system and the SDE it was trained with.
      sampler, steps, prediction, clamp: see `samplers.sample`.

    Returns:
      uint8 [B, H, W, 3].
    """
    mu = lq.astype(jnp.float32) / 255
    priors = model.apply(variables, mu, method="extract_priors")

    def denoise(x_t, mu, t):
        return model.apply(variables, x_t, mu, t, priors, method="denoise")

    restored = samplers.sample(
        sampler, denoise, sde, mu, keys, steps=steps, prediction=prediction, clamp=clamp
    )
    return jnp.round(jnp.clip(restored, 0, 1) * 255).astype(jnp.uint8)
