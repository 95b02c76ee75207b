"""Training pairs and losses of the mean-reverting diffusion."""

import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.diffusion import prediction as predictions
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.reporting.errors import UserError, require_known

DISTANCES = ("l1", "l2", "log_l2")
# Of log_l2: crops restored better than this mean square error (45 dB) hardly count any more.
_LEAST_MSE = 3e-5
OBJECTIVES = ("optimum", "residual")
TIME_WEIGHTINGS = ("uniform", "min_snr")
# Of min_snr: signal-to-noise ratios above it count alike (arXiv 2303.09556, gamma = 5).
_MOST_SNR = 5.0


def sample_times(
    key: jax.Array,
    batch: int,
    num_steps: int,
    power: float = 1.0,
    *,
    first_step_share: float = 0.0,
) -> jax.Array:
    """Draw one training time per example.

    Args:
      key: a JAX random key.
      batch: number of examples B.
      num_steps: T; times are 1..T.
      power: 1 draws uniformly (the released program).  Above 1, the density over u = t/T is
        proportional to u^(power - 1): large, hard times come more often.
      first_step_share: share of the examples whose time is T itself, where sampling starts and
        the state tells nothing that the degraded image does not: plain regression.

    Returns:
      int32 [B] in 1..T.

    Raises:
      UserError: `power` is not positive.
    """
    if not power > 0:
        raise UserError(f"loss.time_power={power} must be positive.")
    uniform = jax.random.uniform(key, (batch,))
    # One draw decides both: below the share it means T, above it is spread out again.
    spread = (uniform - first_step_share) / (1 - first_step_share) if first_step_share < 1 else 1.0
    t = jnp.floor(jnp.maximum(spread, 0) ** (1 / power) * num_steps).astype(jnp.int32) + 1
    return jnp.where(uniform < first_step_share, num_steps, jnp.minimum(t, num_steps))


def time_weights(sde: IRSDE, t: jax.Array, weighting: str) -> jax.Array:
    """Return how much the loss at each time counts, float32 [B], 1 at most.

    Args:
      sde: the SDE.
      t: int [B] in 1..T.
      weighting: `uniform`: all alike.  `min_snr`: min(snr, 5) / 5 with snr = a_t^2 / (1 - a_t^2)
        (Hang et al., arXiv 2303.09556), so that noisy, nearly hopeless times count less.

    Raises:
      UserError: an unknown weighting.
    """
    require_known("loss.time_weighting", weighting, TIME_WEIGHTINGS)
    if weighting == "uniform":
        return jnp.ones(t.shape, jnp.float32)
    a = np.asarray(sde.decays, np.float64)
    snr = np.square(a) / np.maximum(1 - np.square(a), 1e-12)
    return jnp.asarray(np.minimum(snr, _MOST_SNR) / _MOST_SNR, jnp.float32)[t]


def diffuse(
    sde: IRSDE,
    x0: jax.Array,
    mu: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    *,
    starts_at_mu: bool = False,
) -> jax.Array:
    """Return x_t = m_t + sigma_bar_t z, a draw of p(x_t | x_0).

    Args:
      sde: the SDE.
      x0: clean images, float32 [B, H, W, 3] in [0, 1].
      mu: degraded images, the same shape and range.
      t: int [B] in 1..T.
      noise: z, standard normal [B, H, W, 3].
      starts_at_mu: at time T give mu + S z, where sampling starts.  m_T still holds a share `eps`
        of x0 - mu: too little to see in any pixel, but its mean over all of them tells how much
        brighter x0 is.  A network that learns mostly at T learns to read it; sampling has none.
    """
    x_t = sde.mean(x0, mu, t) + sde.std(t).reshape(-1, 1, 1, 1) * noise
    if not starts_at_mu:
        return x_t
    start = mu + sde.stationary_std * noise
    return jnp.where((t == sde.num_steps).reshape(-1, 1, 1, 1), start, x_t)


def diffusion_loss(
    sde: IRSDE,
    output: jax.Array,
    x_t: jax.Array,
    x0: jax.Array,
    mu: jax.Array,
    t: jax.Array,
    *,
    prediction: str = "noise",
    objective: str = "optimum",
    distance: str = "l1",
) -> jax.Array:
    """Return the loss of each example.

    Args:
      sde: the SDE whose tables made `x_t`.
      output: the network's answer for (x_t, mu, t), [B, H, W, 3].
      x_t, x0, mu: state, clean and degraded images, [B, H, W, 3].
      t: int [B] in 1..T.
      prediction: what `output` is: `noise`, `x0` or `v`.
      objective: `optimum` compares the reverse step's mean with the optimum step, the maximum
        likelihood loss of arXiv 2301.11699 Eq. (17) and of the released program.  `residual`
        compares the clean image the output implies with the true one, which weighs all t alike.
      distance: `l1`, `l2`, or `log_l2`: log(mean square + 3e-5), which every dB of PSNR moves
        alike, whether the image is hardly degraded or beyond recognition.

    Returns:
      float32 [B], the mean distance over pixels and channels (of `log_l2`, its logarithm).

    Raises:
      UserError: an unknown prediction, objective or distance.
    """
    require_known("loss.distance", distance, DISTANCES)
    require_known("loss.objective", objective, OBJECTIVES)
    a = jnp.asarray(sde.decays, jnp.float32)[t].reshape(-1, 1, 1, 1)
    y = x_t - mu
    output = output.astype(jnp.float32)
    if objective == "optimum":
        noise = predictions.to_noise(prediction, output, y, a, sde.stationary_std)
        reached = sde.reverse_mean(x_t, mu, sde.score_from_noise(noise, t), t)
        error = reached - sde.optimum(x_t, x0, mu, t)
    else:
        error = predictions.to_residual(prediction, output, y, a, sde.stationary_std) - (x0 - mu)
    error = jnp.abs(error) if distance == "l1" else jnp.square(error)
    mean = error.mean(axis=(1, 2, 3))
    return jnp.log(mean + _LEAST_MSE) if distance == "log_l2" else mean
