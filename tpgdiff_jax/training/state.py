"""What training carries from step to step: parameters, their average, the optimiser's state."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from tpgdiff_jax.config import chosen_average
from tpgdiff_jax.reporting.errors import require_known
from tpgdiff_jax.training.muon import muon
from tpgdiff_jax.training.norms import clip_by_norm


@flax.struct.dataclass
class TrainState:
    """All that a step changes; every leaf is an array, so it can be sharded and saved as it is.

    Attributes:
      step: number of steps taken, int32 [].
      params: the network's parameters.
      ema: their running average, what restoration uses; float32 whatever the parameters are, since
        a coarser type would round every small move away.
      opt_state: the optimiser's state.
      more_ema: further averages, one for each of `config.ema.more_decays`.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    more_ema: tuple[Any, ...] = ()


def create_state(
    params: Any, optimizer: optax.GradientTransformation, averages: int = 0
) -> TrainState:
    """Return the state before the first step.

    Args:
      params: the network's parameters.
      optimizer: what will move them.
      averages: how many averages are kept beside the first.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=_first_average(params),
        opt_state=optimizer.init(params),
        more_ema=tuple(_first_average(params) for _ in range(averages)),
    )


def _first_average(params: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params)  # a copy in any case


def averaged(state: TrainState, config: ConfigDict) -> Any:
    """Return the average that `config.eval.ema_decay` chooses; 0 means the first.

    Raises:
      UserError: no average of that decay is kept.
    """
    return (state.ema, *state.more_ema)[chosen_average(config)]


def apply_gradient(
    state: TrainState, gradient: Any, optimizer: optax.GradientTransformation, ema: ConfigDict
) -> TrainState:
    """Return the state after one optimiser step: parameters, averages, the step's number."""
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    def move(average, decay):
        timing = {"every_steps": ema.every_steps, "start_step": ema.start_step}
        return update_ema(average, params, state.step, decay=decay, **timing)

    more = zip(state.more_ema, ema.more_decays, strict=True)
    return TrainState(
        step=state.step + 1,
        params=params,
        ema=move(state.ema, ema.decay),
        opt_state=opt_state,
        more_ema=tuple(move(average, decay) for average, decay in more),
    )


def to_unit_range(images: jax.Array) -> jax.Array:
    """Return images as float32 in [0, 1]; whole numbers are taken for 8-bit grey levels."""
    if jnp.issubdtype(images.dtype, jnp.integer):
        return images.astype(jnp.float32) / 255
    return images.astype(jnp.float32)


def learning_rate_schedule(optim: ConfigDict) -> optax.Schedule:
    """Return the learning rate by step: linear warm-up to `learning_rate`, then a descent.

    `cosine` falls to `final_learning_rate` at the last step (arXiv 1608.03983); `multistep`
    multiplies by `decay_factor` at each of `milestones`.

    Raises:
      UserError: `optim.schedule` is unknown.
    """
    require_known("optim.schedule", optim.schedule, SCHEDULES)
    if optim.schedule == "multistep":
        drops = {int(step) - optim.warmup_steps: optim.decay_factor for step in optim.milestones}
        steady = optax.piecewise_constant_schedule(optim.learning_rate, drops)
        rise = optax.linear_schedule(0.0, optim.learning_rate, optim.warmup_steps)
        return optax.join_schedules([rise, steady], [optim.warmup_steps])
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if optim.warmup_steps else optim.learning_rate,
        peak_value=optim.learning_rate,
        warmup_steps=optim.warmup_steps,
        decay_steps=max(optim.steps, optim.warmup_steps + 1),
        end_value=optim.final_learning_rate,
    )


OPTIMIZERS = ("adamw", "lion", "muon")
SCHEDULES = ("cosine", "multistep")


def make_optimizer(optim: ConfigDict) -> optax.GradientTransformation:
    """Return the optimiser with its schedule, clipped by norm where asked.

    `adamw` (arXiv 1711.05101) is the released program's.  `lion` (arXiv 2302.06675) keeps one
    moment instead of two and wants a learning rate 3 to 10 times smaller.  `muon` (Jordan et al.,
    2024, "Muon: an optimizer for hidden layers") orthogonalises the updates of matrices and
    convolutions, so faint features such as noise learn as fast as strong ones such as brightness;
    everything else follows AdamW (with Nesterov momentum) at a tenth of its learning rate.

    Raises:
      UserError: `optim.name` is unknown.
    """
    require_known("optim.name", optim.name, OPTIMIZERS)
    schedule = learning_rate_schedule(optim)
    if optim.name in ("adamw", "lion"):
        make = optax.adamw if optim.name == "adamw" else optax.lion
        moments = {"b1": optim.b1, "b2": optim.b2}
        optimizer = make(schedule, **moments, weight_decay=optim.weight_decay, mask=_is_decayed)
    else:
        optimizer = muon(
            schedule,
            lambda step: 0.1 * schedule(step),
            b1=optim.b1,
            b2=optim.b2,
            weight_decay=optim.weight_decay,
            mask=_is_decayed,
        )
    if optim.clip_norm:
        return optax.chain(clip_by_norm(optim.clip_norm), optimizer)
    return optimizer


def _is_decayed(params: Any) -> Any:
    """Tell which parameters decay: not gains, biases and whatever else has one axis."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def ema_decay(
    step: jax.Array, *, decay: float, every_steps: int, start_step: int
) -> tuple[jax.Array, jax.Array]:
    """Return how the average moves after a step, as the released program warms it up.

    It moves at every `every_steps`-th step: up to `start_step` to a copy of the parameters, after
    it so that it keeps min(decay, 1 - (1 + steps since start)^(-2/3)) of itself.

    Args:
      step: number of the step just taken, counted from 0, int [].
      decay: the largest share that is kept.
      every_steps: the average moves at steps divisible by this.
      start_step: last step at which it moves to a copy.

    Returns:
      (whether the average moves at all, the share of the old average that is kept).
    """
    since = jnp.maximum(step - start_step, 0).astype(jnp.float32)
    warm = jnp.minimum(1 - (1 + since) ** (-2 / 3), decay)
    kept = jnp.where(step <= start_step, 0.0, warm)
    return step % every_steps == 0, kept


def update_ema(ema: Any, params: Any, step: jax.Array, **timing: Any) -> Any:
    """Return the average after step number `step` (counted from 0), float32; see `ema_decay`."""
    moves, kept = ema_decay(step, **timing)
    kept = jnp.where(moves, kept, 1.0)
    return jax.tree.map(lambda a, p: (kept * a + (1 - kept) * p).astype(jnp.float32), ema, params)
