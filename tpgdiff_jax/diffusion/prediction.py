"""What the network predicts, and how one prediction turns into another.

With y = x_t - mu, a_t = exp(-Theta_t dt), S = lambda, r_t = sqrt(1 - a_t^2) and s_t = S r_t the
forward process reads y_t = a_t q + s_t z, where q = x_0 - mu.  A network may predict

    noise   z,                              the released program's choice
    x0      q,                              the residual between clean and degraded image
    v       a_t z - r_t q / S,              in between (Salimans & Ho, arXiv 2202.00512, Appendix D)

All three carry the same information: q = (y - s z) / a = S (a y / S - r v).
"""

import jax
import jax.numpy as jnp

from tpgdiff_jax.reporting.errors import require_known

PREDICTIONS = ("noise", "x0", "v")


def check_prediction(prediction: str) -> None:
    """Raise UserError unless `prediction` is one of `PREDICTIONS`."""
    require_known("model.prediction", prediction, PREDICTIONS)


def to_residual(prediction: str, output: jax.Array, y: jax.Array, a, stationary_std: float):
    """Convert a network's output to the residual q = x_0 - mu it implies.

    Args:
      prediction: one of `PREDICTIONS`.
      output: what the network returned, float [B, H, W, C].
      y: the state relative to the degraded image, x_t - mu, [B, H, W, C].
      a: exp(-Theta_t dt), a scalar or broadcastable to `y`.
      stationary_std: S = max_sigma / 255.

    Returns:
      float [B, H, W, C].
    """
    check_prediction(prediction)
    r = jnp.sqrt(1 - jnp.square(a))
    if prediction == "noise":
        return (y - stationary_std * r * output) / a
    if prediction == "x0":
        return output
    return a * y - stationary_std * r * output


def to_noise(prediction: str, output: jax.Array, y: jax.Array, a, stationary_std: float):
    """Convert a network's output to the noise z it implies; arguments as in `to_residual`."""
    check_prediction(prediction)
    r = jnp.sqrt(1 - jnp.square(a))
    if prediction == "noise":
        return output
    if prediction == "x0":
        return (y - a * output) / (stationary_std * r)
    return a * output + r * y / stationary_std
