"""What training carries from step to step: parameters, their average, the optimiser's state."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
import optax.contrib
from ml_collections import ConfigDict


@flax.struct.dataclass
class TrainState:
    """All that a step changes; every leaf is an array, so it can be sharded and saved as it is.

    Attributes:
      step: number of steps taken, int32 [].
      params: the network's parameters.
      ema: their running average, what restoration uses.
      opt_state: the optimiser's state.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any


def create_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
    )


def apply_gradient(
    state: TrainState, gradient: Any, optimizer: optax.GradientTransformation, ema: ConfigDict
) -> TrainState:
    """Return the state after one optimiser step: parameters, their average, the step's number."""
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(
        state.step + 1, params, update_ema(state.ema, params, state.step, ema), opt_state
    )


def to_unit_range(images: jax.Array) -> jax.Array:
    """Return images as float32 in [0, 1]; whole numbers are taken for 8-bit grey levels."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / 255
    return images.astype(jnp.float32)


def learning_rate_schedule(optim: ConfigDict) -> optax.Schedule:
    """Return linear warm-up to `learning_rate`, then a cosine down to `final_learning_rate`."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if optim.warmup_steps else optim.learning_rate,
        peak_value=optim.learning_rate,
        warmup_steps=optim.warmup_steps,
        decay_steps=max(optim.steps, optim.warmup_steps + 1),
        end_value=optim.final_learning_rate,
    )


OPTIMIZERS = ("adamw", "muon")


def make_optimizer(optim: ConfigDict) -> optax.GradientTransformation:
    """Return the optimiser with the cosine schedule, clipped by norm where asked.

    `adamw` (arXiv 1711.05101) is the released program's.  `muon` (Jordan et al., 2024, "Muon: an
    optimizer for hidden layers") orthogonalises the updates of matrices and convolutions, so faint
    features such as noise learn as fast as strong ones such as brightness; everything else follows
    AdamW (with Nesterov momentum) at a tenth of its learning rate.

    Raises:
      ValueError: `optim.name` is unknown.
    """
    schedule = learning_rate_schedule(optim)
    if optim.name == "adamw":
        optimizer = optax.adamw(
            schedule,
            b1=optim.b1,
            b2=optim.b2,
            weight_decay=optim.weight_decay,
            mask=_is_decayed,
        )
    elif optim.name == "muon":
        optimizer = optax.contrib.muon(
            schedule,
            adam_b1=optim.b1,
            adam_b2=optim.b2,
            adam_learning_rate=lambda step: 0.1 * schedule(step),
            weight_decay=optim.weight_decay,
            weight_decay_mask=_is_decayed,
            muon_weight_dimension_numbers=_matrix_axes,
        )
    else:
        raise ValueError(
            f"optim.name={optim.name!r} is unknown; expected one of {', '.join(OPTIMIZERS)}."
        )
    if optim.clip_norm:
        return optax.chain(optax.clip_by_global_norm(optim.clip_norm), optimizer)
    return optimizer


def _is_decayed(params: Any) -> Any:
    """Tell which parameters decay: not gains, biases and whatever else has one axis."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _matrix_axes(params: Any) -> Any:
    """Tell Muon which parameters are matrices: kernels, all axes but the last merged."""

    def axes(path, leaf):
        if getattr(path[-1], "key", None) != "kernel":
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


def ema_decay(
    step: jax.Array, *, decay: float, every_steps: int, start_step: int
) -> tuple[jax.Array, jax.Array]:
    """Return how the average moves after a step, as the released program warms it up.

    Up to `start_step` the average is a copy; after it, at every `every_steps`-th step, it keeps
    min(decay, 1 - (1 + steps since start)^(-2/3)) of itself.

    Args:
      step: number of the step just taken, counted from 0, int [].
      decay: the largest share that is kept.
      every_steps: the average moves at steps divisible by this.
      start_step: last step at which the average is a copy.

    Returns:
      (whether the average moves at all, the share of the old average that is kept).
    """
    since = jnp.maximum(step - start_step, 0).astype(jnp.float32)
    warm = jnp.minimum(1 - (1 + since) ** (-2 / 3), decay)
    kept = jnp.where(step <= start_step, 0.0, warm)
    return step % every_steps == 0, kept


def update_ema(ema: Any, params: Any, step: jax.Array, options: ConfigDict) -> Any:
    """Return the average after step number `step` (counted from 0); see `ema_decay`."""
    moves, kept = ema_decay(step, **options)
    kept = jnp.where(moves, kept, 1.0)
    return jax.tree.map(lambda a, p: kept * a + (1 - kept) * p, ema, params)
