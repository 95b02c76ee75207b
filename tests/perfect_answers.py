"""What a network would answer that knows the truth."""

import jax
import jax.numpy as jnp


def target(prediction: str, residual: jax.Array, noise: jax.Array, a, stationary_std: float):
    """Return what a perfect network would answer.

    Args:
      prediction: one of `PREDICTIONS`.
      residual: q = x_0 - mu, [B, H, W, C].
      noise: z, [B, H, W, C].
      a: exp(-Theta_t dt), broadcastable to the images.
      stationary_std: S = max_sigma / 255.
    """
    if prediction == "noise":
        return noise
    if prediction == "x0":
        return residual
    return a * noise - jnp.sqrt(1 - jnp.square(a)) * residual / stationary_std
