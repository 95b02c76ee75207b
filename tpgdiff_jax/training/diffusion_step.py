"""One optimiser step of the diffusion model, as a pure function."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.loss import diffuse, diffusion_loss, sample_times
from tpgdiff_jax.distributed.sharding import batch_sharding, replicated
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.priors.degradation import accuracy, classification_loss
from tpgdiff_jax.training.state import TrainState, apply_gradient, to_unit_range

# What a batch may bring along instead of having the frozen networks compute it again: vectors
# `degradation` and `semantic` [B, 512], maps `depth` and `segmentation` [B, h, w, 1] in [0, 1].
KNOWN = ("degradation", "semantic", "depth", "segmentation")

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def loss_fn(
    params: Any,
    frozen: Any,
    batch: Batch,
    key: jax.Array,
    *,
    model: TPGDiff,
    sde: IRSDE,
    config: ConfigDict,
) -> tuple[jax.Array, Metrics]:
    """Draw times and noise, and return the loss of a batch and what it is made of.

    Args:
      params: the model's trained parameters.
      frozen: the weights of its frozen networks; {} where it has none.
      batch: as in `loss_at`.
      key: random key of this step: times and noise are drawn from it.
      model, sde: the system and its SDE.
      config: a whole configuration; reads `loss`, `model.prediction` and `priors`.

    Returns:
      as `loss_at`.
    """
    time_key, noise_key = jax.random.split(key)
    t = sample_times(time_key, batch["gt"].shape[0], sde.num_steps, config.loss.time_power)
    noise = jax.random.normal(noise_key, batch["gt"].shape)
    return loss_at(params, frozen, batch, t, noise, model=model, sde=sde, config=config)


def loss_at(
    params: Any,
    frozen: Any,
    batch: Batch,
    t: jax.Array,
    noise: jax.Array,
    *,
    model: TPGDiff,
    sde: IRSDE,
    config: ConfigDict,
) -> tuple[jax.Array, Metrics]:
    """Return the loss of a batch at given times and noise.

    Args:
      params, frozen, model, sde, config: as in `loss_fn`.
      batch: {gt, lq: uint8 [B, H, W, 3], or float in [0, 1]; label: class numbers int [B], or 0
        and 1 of each degradation [B, K]}, and what of `KNOWN` need not be computed.
      t: times, int [B] in 1..T.
      noise: standard normal, [B, H, W, 3].

    Returns:
      (float32 [], {loss, diffusion, classification, accuracy, per-class losses: float32 []}).
    """
    gt, lq = to_unit_range(batch["gt"]), to_unit_range(batch["lq"])
    x_t = diffuse(sde, gt, lq, t, noise)
    known = {name: batch[name] for name in KNOWN if name in batch}
    output, logits = model.apply({"params": params, "frozen": frozen}, x_t, lq, t, known)
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
    label = batch.get("label")
    if logits is not None and label is not None:
        wrong = classification_loss(
            logits,
            label,
            kind=config.priors.classification,
            smoothing=config.priors.label_smoothing,
        ).mean()
        metrics |= {"classification": wrong, "accuracy": accuracy(logits, label)}
        if model.encoder is not None:  # stage one's classifier is frozen
            loss = loss + config.loss.classification_weight * wrong
    if label is not None:
        metrics |= _per_class(per_example, label, config.data.degradations)
    return loss, {"loss": loss, **metrics}


def _per_class(per_example, label, names) -> Metrics:
    """Return the mean loss over each class's examples; NaN where the batch has none."""
    rows = jax.nn.one_hot(label, len(names)) if label.ndim == 1 else label.astype(jnp.float32)
    sums, counts = per_example @ rows, rows.sum(axis=0)
    return {f"diffusion_{name}": sums[i] / counts[i] for i, name in enumerate(names)}


def train_step(
    state: TrainState,
    frozen: Any,
    batch: Batch,
    key: jax.Array,
    *,
    model: TPGDiff,
    sde: IRSDE,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> tuple[TrainState, Metrics]:
    """Take one optimiser step and move the average of UNet and structural encoder alike.

    Args:
      state: before the step; its `step` chooses the random draws, so a restart repeats them.
      frozen, batch, model, sde, config: as in `loss_fn`.
      key: the run's base key.
      optimizer: what `state.opt_state` belongs to.

    Returns:
      (the state after the step, metrics of `loss_at` and the gradient's norm).
    """
    step_key = jax.random.fold_in(key, state.step)
    gradient_fn = jax.grad(loss_fn, has_aux=True)
    gradient, metrics = gradient_fn(
        state.params, frozen, batch, step_key, model=model, sde=sde, config=config
    )
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    return apply_gradient(state, gradient, optimizer, config.ema), metrics


def make_train_step(
    model: TPGDiff,
    sde: IRSDE,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    *,
    mesh: Mesh,
    state_shardings: Any,
    frozen_shardings: Any,
    batch_ndims: Mapping[str, int] = MappingProxyType({"gt": 4, "lq": 4, "label": 1}),
) -> Callable[[TrainState, Any, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """Return `train_step` compiled for a mesh; the state is donated.

    Args:
      model, sde, optimizer, config: as in `train_step`.
      mesh: the devices.
      state_shardings, frozen_shardings: how state and frozen weights lie on them.
      batch_ndims: number of axes of each array in a batch.
    """

    def step(state, frozen, batch, key):
        return train_step(
            state, frozen, batch, key, model=model, sde=sde, optimizer=optimizer, config=config
        )

    batch_shardings = {name: batch_sharding(mesh, ndim) for name, ndim in batch_ndims.items()}
    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(state_shardings, frozen_shardings, batch_shardings, whole),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
    )
