"""One optimiser step, whatever the stage: gradient in parts, update, averages, what went wrong."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from tpgdiff_jax.distributed.batches import batch_sharding
from tpgdiff_jax.distributed.sharding import gathered, replicated
from tpgdiff_jax.training.norms import tree_norm
from tpgdiff_jax.training.state import TrainState, apply_gradient

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

NON_FINITE = ("stop", "skip")


class Loss(Protocol):
    """The loss of a batch and its metrics; a pure function, see `diffusion_step.loss_fn`."""

    def __call__(
        self, params: Any, frozen: Any, batch: Batch, keys: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        """Return (float32 [], metrics float32 [])."""


def train_step(
    state: TrainState,
    frozen: Any,
    batch: Batch,
    key: jax.Array,
    *,
    loss_fn: Loss,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    mesh: Mesh | None = None,
    split_rows: bool = True,
) -> tuple[TrainState, Metrics]:
    """Take one optimiser step and move the averages of all that learns.

    Args:
      state: before the step; its `step` chooses the random draws, so a restart repeats them.
      frozen: the weights of the frozen networks.
      batch: name -> [B, ...].
      key: the run's base key.
      loss_fn: of the stage.
      optimizer: what `state.opt_state` belongs to.
      config: a whole configuration; reads `optim` and `ema`.
      mesh, split_rows: as in `accumulate`.

    Returns:
      (the state after the step; the loss's metrics, `gradient_norm`, `parameter_norm` and
      `bad_step`, 1 where loss or gradient was not finite).  With `optim.non_finite="skip"` a bad
      step changes nothing but the step's number.
    """
    examples = jax.tree.leaves(batch)[0].shape[0]
    step_key = jax.random.fold_in(key, state.step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(examples))
    gradient, metrics = accumulate(
        loss_fn,
        state.params,
        frozen,
        batch,
        keys,
        parts=config.optim.accumulate,
        mesh=mesh,
        split_rows=split_rows,
    )
    norm = tree_norm(gradient)
    is_good = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
    new = apply_gradient(state, gradient, optimizer, config.ema)
    if config.optim.non_finite == "skip":
        kept = state.replace(step=new.step)
        new = jax.tree.map(lambda a, b: jnp.where(is_good, a, b), new, kept)
    metrics = metrics | {
        "gradient_norm": norm,
        "parameter_norm": tree_norm(new.params),
        "bad_step": 1.0 - is_good,
    }
    return new, metrics


def accumulate(
    loss_fn: Loss,
    params: Any,
    frozen: Any,
    batch: Batch,
    keys: jax.Array,
    *,
    parts: int,
    mesh: Mesh | None = None,
    split_rows: bool = True,
) -> tuple[Any, Metrics]:
    """Return the gradient of a batch's loss, computed in parts of which one is alive at a time.

    Args:
      loss_fn: a mean over examples.
      params, frozen, batch: as in `train_step`.
      keys: a random key per example [B].
      parts: how many; must divide B.
      mesh: the devices each part is spread over.
      split_rows: whether image rows lie over its `spatial` axis.

    Returns:
      (gradient, metrics); metrics that some parts lack (NaN) are averaged over the others.
    """
    gradient_fn = jax.grad(loss_fn, has_aux=True)
    if parts == 1:
        return gradient_fn(params, frozen, batch, keys)

    def split(x):
        # Every parts-th example, so that each device splits the examples that it has.
        x = jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)
        if mesh is None:
            return x
        spec = PartitionSpec(None, *batch_sharding(mesh, x.ndim - 1, split_rows=split_rows).spec)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def add(total, part):
        gradient, metrics = gradient_fn(params, frozen, *part)
        return jax.tree.map(jnp.add, total, gradient), metrics

    zeros = jax.tree.map(jnp.zeros_like, params)
    total, metrics = jax.lax.scan(add, zeros, jax.tree.map(split, (batch, keys)))
    gradient = jax.tree.map(lambda x: x / parts, total)
    # A loss that is NaN in one part must stay so.
    means = {k: x.mean() if k == "loss" else jnp.nanmean(x) for k, x in metrics.items()}
    return gradient, means


def _with_whole_params(loss_fn: Loss, shardings: Any, mesh: Mesh) -> Loss:
    """Return the loss, whose parameters are gathered over `fsdp` where they are used.

    Left alone, XLA splits maps of all images as the kernels are split, and gathers those instead:
    at full width 2953 MB a step on a v5e-16 of 4x4x1x1.
    """
    if mesh.shape["fsdp"] == 1:
        return loss_fn
    whole = jax.tree.map(lambda sharding: gathered(sharding, "fsdp"), shardings)

    def gathering(params: Any, *args: Any) -> tuple[jax.Array, Metrics]:
        return loss_fn(jax.lax.with_sharding_constraint(params, whole), *args)

    return gathering


def jit_train_step(
    loss_fn: Loss,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    *,
    mesh: Mesh,
    state_shardings: Any,
    frozen_shardings: Any,
    batch_ndims: Mapping[str, int],
    split_rows: bool = True,
) -> Callable[[TrainState, Any, Batch, jax.Array], tuple[TrainState, Metrics]]:
    """Return `train_step` as one program for a mesh; the state is donated.

    Args:
      loss_fn, optimizer, config: as in `train_step`.
      mesh: the devices.
      state_shardings, frozen_shardings: how state and frozen weights lie on them.
      batch_ndims: number of axes of each array in a batch.
      split_rows: whether image rows lie over the mesh's `spatial` axis.
    """
    loss_fn = _with_whole_params(loss_fn, state_shardings.params, mesh)

    def step(state, frozen, batch, key):
        return train_step(
            state,
            frozen,
            batch,
            key,
            loss_fn=loss_fn,
            optimizer=optimizer,
            config=config,
            mesh=mesh,
            split_rows=split_rows,
        )

    batch_shardings = {
        name: batch_sharding(mesh, ndim, split_rows=split_rows)
        for name, ndim in batch_ndims.items()
    }
    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(state_shardings, frozen_shardings, batch_shardings, whole),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
    )
