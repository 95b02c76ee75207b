"""One optimiser step of the diffusion model, as a pure function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.loss import diffuse, diffusion_loss, sample_times
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.training.state import TrainState, update_ema

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def loss_fn(
    params: Any, batch: Batch, key: jax.Array, *, model: TPGDiff, sde: IRSDE, config: ConfigDict
) -> tuple[jax.Array, Metrics]:
    """Return the loss of a batch and what it is made of.

    Args:
      params: the model's parameters.
      batch: {gt, lq: uint8 [B, H, W, 3], label: int32 [B]}.
      key: random key of this step: times and noise are drawn from it.
      model, sde: the system and its SDE.
      config: a whole configuration; reads `loss` and `model.prediction`.

    Returns:
      (float32 [], {loss, diffusion, classification, accuracy, per-class losses: float32 []}).
    """
    gt = batch["gt"].astype(jnp.float32) / 255
    lq = batch["lq"].astype(jnp.float32) / 255
    time_key, noise_key = jax.random.split(key)
    t = sample_times(time_key, gt.shape[0], sde.num_steps, config.loss.time_power)
    x_t = diffuse(sde, gt, lq, t, jax.random.normal(noise_key, gt.shape))
    output, logits = model.apply({"params": params}, x_t, lq, t)
    per_example = diffusion_loss(
        sde,
        output,
        x_t,
        gt,
        lq,
        t,
        prediction=config.model.prediction,
        objective=config.loss.objective,
        distance=config.loss.distance,
    )
    # Without a weight, what harms much (darkness) drowns what harms little (blur).
    harm = config.loss.least_harm + jnp.abs(gt - lq).mean(axis=(1, 2, 3))
    loss = (per_example * harm**-config.loss.relative_power).mean()
    metrics = {"diffusion": loss}
    if logits is not None:
        classification = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        loss = loss + config.loss.classification_weight * classification.mean()
        metrics["classification"] = classification.mean()
        metrics["accuracy"] = (logits.argmax(axis=-1) == batch["label"]).mean()
    for index, name in enumerate(config.data.degradations):
        of_class = (batch["label"] == index).astype(jnp.float32)
        # The mean over this class's examples; NaN where the batch has none.
        metrics[f"diffusion_{name}"] = (per_example * of_class).sum() / of_class.sum()
    return loss, {"loss": loss, **metrics}


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    model: TPGDiff,
    sde: IRSDE,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> tuple[TrainState, Metrics]:
    """Take one optimiser step and move the parameters' average.

    Args:
      state: before the step; its `step` chooses the random draws, so a restart repeats them.
      batch, model, sde, config: as in `loss_fn`.
      key: the run's base key.
      optimizer: what `state.opt_state` belongs to.

    Returns:
      (the state after the step, metrics of `loss_fn` and the gradient's norm).
    """
    step_key = jax.random.fold_in(key, state.step)
    gradient_fn = jax.grad(loss_fn, has_aux=True)
    gradient, metrics = gradient_fn(
        state.params, batch, step_key, model=model, sde=sde, config=config
    )
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = update_ema(state.ema, params, state.step, config.ema)
    metrics["gradient_norm"] = optax.global_norm(gradient)
    return TrainState(state.step + 1, params, ema, opt_state), metrics


def make_train_step(
    model: TPGDiff,
    sde: IRSDE,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    *,
    state_shardings: Any,
    batch_shardings: Any,
    replicated: jax.sharding.Sharding,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """Return `train_step` compiled for a mesh; the state is donated."""

    def step(state, batch, key):
        return train_step(
            state, batch, key, model=model, sde=sde, optimizer=optimizer, config=config
        )

    return jax.jit(
        step,
        in_shardings=(state_shardings, batch_shardings, replicated),
        out_shardings=(state_shardings, replicated),
        donate_argnums=0,
    )
