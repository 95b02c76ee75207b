"""The loss of stage two, the diffusion model, as a pure function.

The UNet, the structural encoder and the compact encoder learn; the frozen networks get no gradient.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.loss import diffuse, diffusion_loss, sample_times, time_weights
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.precision import EXACT
from tpgdiff_jax.priors import BRANCHES
from tpgdiff_jax.priors.degradation import accuracy, classification_loss
from tpgdiff_jax.training.state import to_unit_range

# What a batch may bring along instead of having the frozen networks compute it again: vectors
# `degradation` and `semantic` [B, 512], maps `depth` and `segmentation` [B, h, w, 1] in [0, 1].
KNOWN = ("degradation", "semantic", "depth", "segmentation")
# The loss is reported for so many ranges of times.
_TIME_RANGES = 4

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def loss_fn(
    params: Any,
    frozen: Any,
    batch: Batch,
    keys: jax.Array,
    *,
    model: TPGDiff,
    sde: IRSDE,
    config: ConfigDict,
) -> tuple[jax.Array, Metrics]:
    """Draw times, noise and withheld priors; return the loss of a batch and what it is made of.

    Args:
      params: the model's trained parameters.
      frozen: the weights of its frozen networks; {} where it has none.
      batch: as in `loss_at`.
      keys: one random key per example [B], so that no example's draws depend on its neighbours.
      model, sde: the system and its SDE.
      config: a whole configuration; reads `loss`, `model` and `priors`.

    Returns:
      as `loss_at`.
    """
    t, noise, present = draw(keys, batch["gt"].shape[1:], sde=sde, config=config)
    if present is not None:
        batch = batch | {"present": present}
    return loss_at(params, frozen, batch, t, noise, model=model, sde=sde, config=config)


def draw(
    keys: jax.Array, shape: tuple[int, ...], *, sde: IRSDE, config: ConfigDict
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Draw what one step needs of chance.

    Args:
      keys: one random key per example [B].
      shape: of an image, (H, W, 3).
      sde: its number of steps bounds the times.
      config: reads `loss.time_power`, `loss.first_step_share` and `model.dropout_*`.

    Returns:
      times int [B], noise float32 [B, H, W, 3], and which priors are present float32 [B, 3] as in
      `Priors`, None where none is ever withheld.
    """
    rates = jnp.array([config.model[f"dropout_{name}"] for name in BRANCHES])

    def draw_one(key):
        time_key, noise_key, prior_key = jax.random.split(key, 3)
        t = sample_times(
            time_key,
            1,
            sde.num_steps,
            config.loss.time_power,
            first_step_share=config.loss.first_step_share,
        )[0]
        present = jax.random.uniform(prior_key, (len(BRANCHES),)) >= rates
        return t, jax.random.normal(noise_key, shape), present.astype(jnp.float32)

    t, noise, present = jax.vmap(draw_one)(keys)
    return t, noise, present if any(config.model[f"dropout_{n}"] for n in BRANCHES) else None


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
        and 1 of each degradation [B, K]}, what of `KNOWN` need not be computed, and perhaps
        `present` [B, 3] as in `Priors`.
      t: times, int [B] in 1..T.
      noise: standard normal, [B, H, W, 3].

    Returns:
      (float32 [], metrics float32 []: loss, diffusion, classification, accuracy, and the diffusion
      loss of each degradation `class/NAME` and range of times `time/FIRST-LAST`, NaN where the
      batch has none).
    """
    gt, lq = to_unit_range(batch["gt"]), to_unit_range(batch["lq"])
    x_t = diffuse(sde, gt, lq, t, noise, starts_at_mu=config.loss.first_step_share > 0)
    known = {name: batch[name] for name in KNOWN if name in batch}
    variables = {"params": params, "frozen": frozen}
    output, logits = model.apply(variables, x_t, lq, t, known, batch.get("present"))
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
    # Without a weight, strong degradations (darkness) drown weak ones (blur).
    change = config.loss.least_harm + jnp.abs(gt - lq).mean(axis=(1, 2, 3))
    weight = time_weights(sde, t, config.loss.time_weighting) * change**-config.loss.relative_power
    loss = (per_example * weight).mean()
    metrics = {"diffusion": loss} | _per_time(per_example, t, sde.num_steps)
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
    return _means(per_example, rows, [f"class/{name}" for name in names])


def _per_time(per_example, t, num_steps) -> Metrics:
    """Return the mean loss over each range of times; NaN where the batch has none."""
    edges = [round(i * num_steps / _TIME_RANGES) for i in range(_TIME_RANGES + 1)]
    spans = [(first + 1, last) for first, last in itertools.pairwise(edges)]
    rows = jnp.stack([(t >= first) & (t <= last) for first, last in spans], axis=1)
    names = [f"time/{first}-{last}" for first, last in spans]
    return _means(per_example, rows.astype(jnp.float32), names)


def _means(per_example, rows, names) -> Metrics:
    sums, counts = jnp.matmul(per_example, rows, precision=EXACT), rows.sum(axis=0)
    return {name: sums[i] / counts[i] for i, name in enumerate(names)}
