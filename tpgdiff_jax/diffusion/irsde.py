"""The mean-reverting SDE (IR-SDE) that carries a clean image to its degraded version plus noise.

    dx = theta_t (mu - x) dt + sigma_t dw,   sigma_t^2 = 2 lambda^2 theta_t,  lambda = max_sigma/255

mu is the degraded image, x_0 the clean one.  Discrete times are t = 1..T; t = 0 is the clean image.
Source: Luo et al., "Image Restoration with Mean-Reverting Stochastic Differential Equations"
(ICML 2023, arXiv 2301.11699), as used by TPGDiff (arXiv 2601.20306).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.reporting.errors import UserError, require_known

SCHEDULES = ("cosine", "linear", "constant")

# The released program floors the variance of the optimum step, which is exactly zero at t = 1.
_VARIANCE_FLOOR = 1e-20


def theta_schedule(schedule: str, steps: int) -> np.ndarray:
    """Return the mean-reversion speeds theta_0..theta_T.

    Args:
      schedule: one of `SCHEDULES`.
      steps: T, the number of discrete steps.

    Returns:
      float64 [T + 1], non-negative.

    Raises:
      UserError: the schedule's name is unknown.
    """
    require_known("diffusion.schedule", schedule, SCHEDULES)
    if schedule == "constant":
        return np.ones(steps + 1)
    if schedule == "linear":
        scale = 1000 / (steps + 1)
        return np.linspace(scale * 1e-4, scale * 0.02, steps + 1)
    # Nichol & Dhariwal's squared cosine (arXiv 2102.09672, Eq. 17); theta = 1 - alpha_bar.
    offset = 0.008
    n = steps + 2
    fraction = np.linspace(0, n, n + 1) / n
    cosine = np.cos((fraction + offset) / (1 + offset) * math.pi / 2)
    alpha_bar = _round32(cosine) ** 2
    return (1 - alpha_bar / alpha_bar[0])[1:-1].astype(np.float64)


@dataclasses.dataclass(frozen=True)
class IRSDE:
    """Hold one mean-reverting SDE; hashable, so it may be a static argument of `jax.jit`.

    Every method takes `t`, an int array [B] of discrete times in 1..`steps`, and images as float
    arrays [B, H, W, C] in [0, 1] (states may leave that range).

    Attributes:
      num_steps: T, the steps the network was trained with.
      max_sigma: standard deviation of the stationary noise, in grey levels of 0..255.
      eps: what is left of x_0 - mu at t = T, exp(-Theta_T dt).
      schedule: one of `SCHEDULES`.
      sample_steps: T of the tables where it differs from `num_steps` (few-step sampling as the
        released program does it: all tables are rebuilt, the network still sees times of
        `num_steps`, see `network_time`).  None: the same.
    """

    num_steps: int = 100
    max_sigma: float = 50.0
    eps: float = 0.005
    schedule: str = "cosine"
    sample_steps: int | None = None

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            theta_schedule(self.schedule, 1)
        for name in ("num_steps", "sample_steps"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | np.integer) and value >= 1):
                raise UserError(f"diffusion.{name}={value!r} must be a whole number, at least 1.")
        if not 0 < self.eps < 1:
            raise UserError(f"diffusion.eps={self.eps} must lie between 0 and 1.")
        if not 0 < self.max_sigma < math.inf:
            raise UserError(f"diffusion.max_sigma={self.max_sigma} must be positive and finite.")

    # Tables: float64 on the host, so that few-step coefficients lose nothing; [steps + 1] each.
    # Two of them pass through float32 where the released program rounds numbers close to 1: the
    # networks were trained with the differences that are left, up to 1e-4 relative at small t.

    @property
    def steps(self) -> int:
        """Number of steps of the tables."""
        return self.sample_steps or self.num_steps

    @property
    def stationary_std(self) -> float:
        """lambda, the noise's standard deviation at t = infinity, in units of [0, 1] images."""
        return self.max_sigma / 255

    @functools.cached_property
    def thetas(self) -> np.ndarray:
        """theta_t, the speeds of mean reversion."""
        return theta_schedule(self.schedule, self.steps)

    @functools.cached_property
    def thetas_cumsum(self) -> np.ndarray:
        """Theta_t = sum of theta_1..theta_t."""
        return np.cumsum(self.thetas) - self.thetas[0]

    @functools.cached_property
    def dt(self) -> float:
        """The step size for which exp(-Theta_T dt) = eps."""
        return float(-math.log(self.eps) / self.thetas_cumsum[-1])

    @functools.cached_property
    def sigmas(self) -> np.ndarray:
        """sigma_t, the SDE's diffusion coefficients."""
        return np.sqrt(2 * self.stationary_std**2 * self.thetas)

    @functools.cached_property
    def sigma_bars(self) -> np.ndarray:
        """Standard deviations of the marginals p(x_t | x_0)."""
        kept_variance = np.exp(-2 * self.thetas_cumsum * self.dt)
        variance = (1 - _round32(kept_variance)).astype(np.float64)
        # The first of thousands of steps would be rounded to no noise, by which scores divide.
        variance = np.where(variance > 0, variance, 1 - kept_variance)
        return self.stationary_std * np.sqrt(variance)

    @functools.cached_property
    def decays(self) -> np.ndarray:
        """a_t = exp(-Theta_t dt), what is left of x_0 - mu at time t."""
        return np.exp(-self.thetas_cumsum * self.dt)

    # Pure functions of arrays.

    def network_time(self, t: jax.Array) -> jax.Array:
        """Map table times to the times the network was trained with, float [B]."""
        return jnp.asarray(t, jnp.float32) * (self.num_steps / self.steps)

    def mean(self, x0: jax.Array, mu: jax.Array, t: jax.Array) -> jax.Array:
        """Return the mean of p(x_t | x_0): mu + (x_0 - mu) exp(-Theta_t dt)."""
        return mu + (x0 - mu) * _at(self.decays, t)

    def std(self, t: jax.Array) -> jax.Array:
        """Return the standard deviation of p(x_t | x_0), float [B]."""
        return jnp.asarray(self.sigma_bars, jnp.float32)[t]

    def score_from_noise(self, noise: jax.Array, t: jax.Array) -> jax.Array:
        """Return the score -noise / sigma_bar_t."""
        return -noise / _at(self.sigma_bars, t)

    def reverse_mean(self, x: jax.Array, mu: jax.Array, score: jax.Array, t: jax.Array):
        """Take one reverse SDE step without its random term; the step's mean."""
        return x - self._reverse_drift(x, mu, score, t, score_weight=1.0) * self.dt

    def reverse_ode(self, x: jax.Array, mu: jax.Array, score: jax.Array, t: jax.Array):
        """Take one step of the probability-flow ODE (half the score's weight, no noise)."""
        return x - self._reverse_drift(x, mu, score, t, score_weight=0.5) * self.dt

    def _reverse_drift(self, x, mu, score, t, score_weight):
        drift = _at(self.thetas, t) * (mu - x)
        return drift - score_weight * _at(self.sigmas, t) ** 2 * score

    def optimum(self, x: jax.Array, x0: jax.Array, mu: jax.Array, t: jax.Array) -> jax.Array:
        """Return the most likely x_{t-1} given x_t and x_0 (arXiv 2301.11699, Proposition 3.2)."""
        state, clean = self._optimum_weights
        return mu + _at(state, t) * (x - mu) + _at(clean, t) * (x0 - mu)

    @functools.cached_property
    def _optimum_weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights of x_t - mu and of x_0 - mu in the optimum step; index 0 is unused."""
        step = np.exp(-self.thetas * self.dt)
        here = self.decays
        before = np.concatenate([[1.0], here[:-1]])
        variance = 1 - here**2
        variance[0] = 1.0
        return step * (1 - before**2) / variance, before * (1 - step**2) / variance

    def optimum_std(self, t: jax.Array) -> jax.Array:
        """Return the standard deviation of p(x_{t-1} | x_t, x_0), float [B]."""
        return jnp.asarray(self._optimum_stds, jnp.float32)[t]

    @functools.cached_property
    def _optimum_stds(self) -> np.ndarray:
        step = np.exp(-2 * self.thetas * self.dt)
        here = self.decays**2
        before = np.concatenate([[1.0], here[:-1]])
        variance = np.zeros_like(here)
        variance[1:] = (1 - step[1:]) * (1 - before[1:]) / (1 - here[1:])
        return self.stationary_std * np.sqrt(np.maximum(variance, _VARIANCE_FLOOR * self.dt))

    def x0_from_noise(self, x: jax.Array, mu: jax.Array, noise: jax.Array, t: jax.Array):
        """Return the clean image that the noise estimate implies, unclamped."""
        return (x - mu - _at(self.sigma_bars, t) * noise) / _at(self.decays, t) + mu


def _round32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _at(table: np.ndarray, t: jax.Array) -> jax.Array:
    """Look up a table at times [B] in float32, shaped [B, 1, 1, 1] to meet images."""
    return jnp.asarray(table, jnp.float32)[t].reshape(-1, 1, 1, 1)
