"""Samplers of the reverse process: one compiled scan, at any number of steps.

In y = x - mu every sampler here is linear in the state, the estimated residual q = x0_hat - mu, its
change since the last step, and fresh noise:

    y_next = c_state y + c_clean q + c_slope (q - q_previous) + c_noise z

so a sampler is a table of four coefficients per step, computed in float64 on the host (x0_hat is
divided by a_T = 0.005), and all share one `lax.scan`.  Few-step formulas: MR Sampler (arXiv
2502.07856); with stride 1 `posterior` is the released program's posterior step and `euler_sde`,
`euler_ode` its reverse steps (arXiv 2301.11699, Eq. 5).
"""

import dataclasses
import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.diffusion import prediction as predictions
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.reporting.errors import UserError, require_whole

Denoise = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What kind of steps a sampler takes.

    Attributes:
      order: 2 uses the estimate's change since the last step, 1 does not.
      stochastic: every step but the last adds fresh noise.
      own_steps_only: Euler steps of the SDE's own length, so that none can be left out; the others
        solve the process exactly between any two times, but for the estimate.
    """

    order: int
    stochastic: bool
    own_steps_only: bool = False


SAMPLERS = {
    "posterior": Sampler(order=1, stochastic=True),
    "sde2": Sampler(order=2, stochastic=True),
    "ode1": Sampler(order=1, stochastic=False),
    "ode2": Sampler(order=2, stochastic=False),
    "euler_sde": Sampler(order=1, stochastic=True, own_steps_only=True),
    "euler_ode": Sampler(order=1, stochastic=False, own_steps_only=True),
}


def check_sampler(name: str, sde: IRSDE, steps: int | None) -> int:
    """Return the number of network calls, or raise UserError naming what does not fit.

    Args:
      name: one of `SAMPLERS`.
      sde: the SDE.
      steps: number of steps asked for; None means all of the SDE's.
    """
    if name not in SAMPLERS:
        raise UserError(f"sampler={name!r} is unknown; expected one of {', '.join(SAMPLERS)}.")
    steps = sde.steps if steps is None else steps
    require_whole("steps", steps)
    if SAMPLERS[name].own_steps_only and steps != sde.steps:
        others = ", ".join(other for other in SAMPLERS if not SAMPLERS[other].own_steps_only)
        raise UserError(
            f"sampler={name!r} takes the SDE's own {sde.steps} steps, not {steps}; "
            f"use one of {others} for another number."
        )
    return steps


def step_times(sde: IRSDE, steps: int) -> np.ndarray:
    """Return the times visited, from T down to 0; fractional where `steps` does not divide T.

    Returns:
      float64 [steps + 1].
    """
    return sde.steps * np.arange(steps, -1, -1) / steps


def step_coefficients(name: str, sde: IRSDE, times: np.ndarray) -> np.ndarray:
    """Compute the coefficients (state, clean, slope, noise) of every step.

    Args:
      name: one of `SAMPLERS`.
      sde: the SDE.
      times: decreasing times that end at 0, float64 [n + 1].

    Returns:
      float64 [n, 4].
    """
    sampler = SAMPLERS[name]
    stochastic = sampler.stochastic
    if sampler.own_steps_only:
        return _euler_coefficients(sde, times[:-1].astype(int), stochastic)
    # Theta is piecewise linear in t, so fractional times interpolate it exactly.
    cumsum = np.interp(times, np.arange(sde.steps + 1), sde.thetas_cumsum)
    a = np.exp(-cumsum * sde.dt)
    s = sde.stationary_std * np.sqrt(1 - a**2)
    rows = []
    previous_h = None
    for now in range(len(times) - 1):
        after = now + 1
        if s[after] == 0:  # v = 0, lambda = infinity: the step is the estimate itself.
            rows.append((0.0, 1.0, 0.0, 0.0))
            continue
        h = math.log(a[after] / s[after]) - math.log(a[now] / s[now])
        gain = -math.expm1(-2 * h) if stochastic else -math.expm1(-h)
        decay = math.exp(-h) if stochastic else 1.0
        slope = 0.0
        if sampler.order == 2 and previous_h is not None:
            # D = (q - q_previous) / (h_previous / h)
            order2 = 1 - gain / (2 * h) if stochastic else math.expm1(-h) / h + 1
            slope = a[after] * order2 * h / previous_h
        noise = s[after] * math.sqrt(gain) if stochastic else 0.0
        rows.append((s[after] / s[now] * decay, a[after] * gain, slope, noise))
        previous_h = h
    return np.array(rows)


def _euler_coefficients(sde: IRSDE, t: np.ndarray, stochastic: bool) -> np.ndarray:
    """Rewrite y + theta y dt - w sigma^2 (y - a q) / sigma_bar^2 dt - sigma sqrt(dt) z."""
    weight = 1.0 if stochastic else 0.5
    pull = weight * sde.sigmas[t] ** 2 * sde.dt / sde.sigma_bars[t] ** 2
    noise = -sde.sigmas[t] * math.sqrt(sde.dt) if stochastic else np.zeros(len(t))
    state = 1 + sde.thetas[t] * sde.dt - pull
    return np.stack([state, pull * sde.decays[t], np.zeros(len(t)), noise], axis=1)


def example_keys(key: jax.Array, batch: int) -> jax.Array:
    """Return one key per example, so that neither batch size nor order changes a result.

    Args:
      key: one random key, or already one key per example.
      batch: number of examples B.

    Returns:
      random keys [B].
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):  # a raw uint32 key of older programs
        key = jax.random.wrap_key_data(key)
    if key.ndim == 1:
        if len(key) != batch:
            raise ValueError(f"key holds {len(key)} keys for {batch} images; give one or {batch}.")
        return key
    return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(batch))


def sample(
    name: str,
    denoise: Denoise,
    sde: IRSDE,
    mu: jax.Array,
    key: jax.Array,
    steps: int | None = None,
    prediction: str = "noise",
    noises: jax.Array | None = None,
    start_noise: jax.Array | None = None,
    clamp: bool = False,
) -> jax.Array:
    """Restore degraded images by running the reverse process as one compiled loop.

    Args:
      name: one of `SAMPLERS`.
      denoise: `denoise(x_t, mu, t)` -> what the network predicts, [B, H, W, 3]; `t` is float32
        [B] in the times the network was trained with.
      sde: the SDE; its tables may be rebuilt for fewer steps (`sample_steps`).
      mu: degraded images, float32 [B, H, W, 3] in [0, 1].
      key: one random key, or one per example [B].
      steps: network calls per image (NFE); None means the SDE's own.
      prediction: what `denoise` returns: `noise`, `x0` or `v`.
      noises: optional [T + 1, B, H, W, 3]; `noises[t]` replaces the draw of the step that leaves t.
      start_noise: optional [B, H, W, 3]; replaces the standard normal noise of x_T.
      clamp: clip every estimate of the clean image to [0, 1].

    Returns:
      float32 [B, H, W, 3], the restored images, unclamped at the end.

    Raises:
      UserError: unknown sampler or prediction, or a step count the sampler cannot take.
      ValueError: `noises` of another shape, or with times that are not whole.
    """
    predictions.check_prediction(prediction)
    steps = check_sampler(name, sde, steps)
    if noises is not None:
        times = step_times(sde, steps)
        if not np.array_equal(times, np.round(times)):
            raise ValueError(f"noises needs whole times: steps={steps} must divide {sde.steps}.")
        if noises.shape != (sde.steps + 1, *mu.shape):
            raise ValueError(f"noises is {noises.shape}, expected {(sde.steps + 1, *mu.shape)}.")
    mu = mu.astype(jnp.float32)
    keys = example_keys(key, mu.shape[0])

    def advance(state, step):
        z = None if noises is None else noises[jnp.round(step.time).astype(int)]
        return take_step(denoise, sde, mu, keys, state, step, prediction, clamp, z), None

    state, _ = jax.lax.scan(
        advance, begin(sde, mu, keys, start_noise), step_table(name, sde, steps)
    )
    return mu + state.y


@flax.struct.dataclass
class StepTable:
    """What the steps of a sampler do, a row each; the same program serves every sampler.

    Attributes:
      coefficients: (state, clean, slope, noise), float32 [n, 4]; see `step_coefficients`.
      decay: exp(-Theta_t dt) where the step begins, float32 [n].
      time: where it begins, float32 [n]; from T down.
      number: from 1; chooses the step's draw of noise, int32 [n].
    """

    coefficients: jax.Array
    decay: jax.Array
    time: jax.Array
    number: jax.Array


@flax.struct.dataclass
class State:
    """Where a sampler is.

    Attributes:
      y: x_t - mu, float32 [B, H, W, 3].
      residual: the last estimate of x_0 - mu, likewise; zero before the first step.
    """

    y: jax.Array
    residual: jax.Array


def step_table(name: str, sde: IRSDE, steps: int | None = None) -> StepTable:
    """Return the rows of all steps of a sampler, computed on the host.

    Args:
      name: one of `SAMPLERS`.
      sde: the SDE.
      steps: number of network calls; None means the SDE's own.
    """
    steps = check_sampler(name, sde, steps)
    times = step_times(sde, steps)
    decays = np.exp(-np.interp(times, np.arange(sde.steps + 1), sde.thetas_cumsum) * sde.dt)
    return StepTable(
        step_coefficients(name, sde, times).astype(np.float32),
        decays[:-1].astype(np.float32),
        times[:-1].astype(np.float32),
        np.arange(1, steps + 1, dtype=np.int32),
    )


def begin(
    sde: IRSDE, mu: jax.Array, keys: jax.Array, start_noise: jax.Array | None = None
) -> State:
    """Return the state at T: noise alone; arguments as for `sample`, with a key per example."""
    noise = _draw(keys, 0, mu.shape[1:]) if start_noise is None else start_noise
    return State(sde.stationary_std * noise, jnp.zeros_like(mu))


def take_step(
    denoise: Denoise,
    sde: IRSDE,
    mu: jax.Array,
    keys: jax.Array,
    state: State,
    step: StepTable,
    prediction: str = "noise",
    clamp: bool = False,
    noise: jax.Array | None = None,
) -> State:
    """Take one step of any sampler.

    Args:
      denoise, sde, mu, prediction, clamp: as for `sample`.
      keys: one per example.
      state: where the step begins.
      step: its row of the table, without the leading axis.
      noise: replaces the step's draw, [B, H, W, 3].
    """
    c, a, y = step.coefficients, step.decay, state.y
    output = denoise(mu + y, mu, jnp.full(mu.shape[:1], sde.network_time(step.time)))
    output = output.astype(jnp.float32)
    q = predictions.to_residual(prediction, output, y, a, sde.stationary_std)
    if clamp:
        q = jnp.clip(mu + q, 0, 1) - mu
    z = _draw(keys, step.number, mu.shape[1:]) if noise is None else noise
    return State(c[0] * y + c[1] * q + c[2] * (q - state.residual) + c[3] * z, q)


def _draw(keys: jax.Array, number: jax.Array | int, shape: tuple[int, ...]) -> jax.Array:
    """Draw standard normal noise [B, ...] that depends on each example's key and the step alone."""
    step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(step_keys)
