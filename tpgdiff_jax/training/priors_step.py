"""The loss of stage one: the semantic student and the degradation classifier.

Total loss: mean(1 - cos(student(lq), teacher(gt))) + classification, weight 1 each (TPGDiff, arXiv
2601.20306, and the released program's recipe).
"""

from typing import Any

import jax
from ml_collections import ConfigDict

from tpgdiff_jax.models.stage_one import StageOne
from tpgdiff_jax.priors.degradation import accuracy, classification_loss
from tpgdiff_jax.priors.semantic import distillation_loss
from tpgdiff_jax.training.state import to_unit_range

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def loss_of_views(
    params: Any,
    teacher_params: Any,
    gt_view: jax.Array,
    lq_view: jax.Array,
    label: jax.Array,
    dropout_key: jax.Array | None,
    *,
    networks: StageOne,
    config: ConfigDict,
) -> tuple[jax.Array, Metrics]:
    """Return stage one's loss.

    Args:
      params: {"semantic", "degradation"}.
      teacher_params: the teacher's; no gradient flows into them.
      gt_view, lq_view: of clean and degraded images, see `StageOne.views`.
      label: class numbers int [B], or 0 and 1 of each degradation [B, K].
      dropout_key: a random key; None leaves dropout out.
      networks, config: reads `priors.classification` and `priors.label_smoothing`.

    Returns:
      (float32 [], {loss, distillation, classification, accuracy: float32 []}).
    """
    teacher_params = jax.lax.stop_gradient(teacher_params)
    taught = networks.teacher.apply({"params": teacher_params}, gt_view)
    seen = networks.semantic.apply({"params": params["semantic"]}, lq_view)
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    variables = {"params": params["degradation"]}
    _, logits = networks.degradation.apply(variables, lq_view, dropout_key is None, rngs=rngs)
    kind = config.priors.classification
    wrong = classification_loss(
        logits, label, kind=kind, smoothing=config.priors.label_smoothing
    ).mean()
    distillation = distillation_loss(seen, taught).mean()
    loss = distillation + wrong
    metrics = {
        "loss": loss,
        "distillation": distillation,
        "classification": wrong,
        "accuracy": accuracy(logits, label),
    }
    return loss, metrics


def loss_fn(
    params: Any,
    teacher_params: Any,
    batch: Batch,
    keys: jax.Array,
    *,
    networks: StageOne,
    config: ConfigDict,
) -> tuple[jax.Array, Metrics]:
    """Return stage one's loss of a batch of images.

    Args:
      params, teacher_params, networks, config: as in `loss_of_views`.
      batch: {gt, lq: uint8 [B, S, S, 3] or float in [0, 1], label: as in `loss_of_views`}.
      keys: random keys [B]; the first draws the dropout.

    Returns:
      as `loss_of_views`.
    """
    views = networks.views(to_unit_range(batch["gt"]), to_unit_range(batch["lq"]))
    return loss_of_views(
        params, teacher_params, *views, batch["label"], keys[0], networks=networks, config=config
    )
