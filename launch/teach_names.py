"""Teach the degradation tower of weights to name what it sees, while its prompt stays as it is.

    python launch/teach_names.py --photos=PHOTOS --output=FILE.safetensors
        [--checkpoint=FILE.safetensors] [--steps=4400] [--state=FILE.msgpack]
        [--keep=20] [--workers=1]

All of the tower learns, its convolutions too.  Two losses pull at it: the classes are to be right,
and what the UNet's prompt makes of the vector is to be what it made of the first tower's.  So the
UNet restores as it did, and need not learn anything anew; where it will, --keep can be small.  The
state is kept every few minutes; the same command goes on from it.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tower_lessons
from absl import flags as absl_flags
from flax import serialization, struct
from ml_collections import ConfigDict

from tpgdiff_jax.models.layers import DegradationPrompt
from tpgdiff_jax.models.tpgdiff import degradation_prior
from tpgdiff_jax.priors.degradation import classification_loss
from tpgdiff_jax.reporting.files import replacing
from tpgdiff_jax.reporting.progress import Progress
from tpgdiff_jax.training.state import make_optimizer, to_unit_range

_CROP, _BATCH = 224, 32
_RATE, _WARMUP = 2e-3, 100
# How often each degradation comes, relative to the others: those that were mistaken more often.
_SHARES = {
    "camera_noise": 2.0,
    "blur": 1.5,
    "defocus": 1.5,
    "motion_blur": 1.3,
    "raindrops": 2.0,
    "rain": 1.3,
    "haze": 1.5,
}
_KEPT_EVERY, _SHOWN_EVERY = 250, 50

Batch = dict[str, jax.Array]


class Learner(struct.PyTreeNode):
    """What changes while the tower learns: its parameters, the optimiser's numbers, the step."""

    params: Any
    moments: Any
    step: int


def make_step(
    config: ConfigDict,
    first: Any,
    prompt: Any,
    optimizer: optax.GradientTransformation,
    keep: float,
) -> Callable[[Learner, Batch], tuple[Learner, Batch]]:
    """Return one step of learning, compiled.

    Args:
      config: of the weights.
      first: the tower's parameters at the start.
      prompt: the parameters of the UNet's prompt, which stay.
      optimizer: of the tower's parameters.
      keep: what one unit of the prompt's distance, relative to how much prompts vary, weighs
        against the sum of the classes' losses.

    Returns:
      (learner, {lq, label}) -> (learner, {wrong: the classes' loss, far: of the prompt from the
      first one relative to how much prompts vary, named: share of single degradations that are
      named first}).
    """
    prior = degradation_prior(config)
    ask = DegradationPrompt(prompt["prompt"].shape[-1])

    def look(params, images):
        vectors, logits = prior.apply({"params": params}, prior.backbone.view(images))
        return ask.apply({"params": prompt}, vectors), logits

    def loss(params, images, label, wanted):
        asked, logits = look(params, images)
        wrong = classification_loss(logits, label, kind="multi").mean() * label.shape[-1]
        varies = jnp.square(wanted - wanted.mean(axis=0)).sum(axis=-1).mean()
        far = jnp.square(asked - wanted).sum(axis=-1).mean() / varies
        single = label.sum(axis=-1) == 1
        right = (logits.argmax(axis=-1) == label.argmax(axis=-1)) & single
        told = {"wrong": wrong, "far": far, "named": right.sum() / jnp.maximum(single.sum(), 1)}
        return wrong + keep * far, told

    @jax.jit
    def step(learner, batch):
        images = to_unit_range(batch["lq"])
        wanted = jax.lax.stop_gradient(look(first, images)[0])
        gradient, told = jax.grad(loss, has_aux=True)(
            learner.params, images, batch["label"], wanted
        )
        updates, moments = optimizer.update(gradient, learner.moments, learner.params)
        params = optax.apply_updates(learner.params, updates)
        return Learner(params, moments, learner.step + 1), told

    return step


def learn(config: ConfigDict, weights: dict[str, Any], flags: argparse.Namespace) -> Any:
    """Return the tower's parameters after learning; goes on from what was kept.

    Args:
      config, weights: published ones.
      flags: of `main`; the learning rate falls to zero over `steps`.
    """
    steps, kept = flags.steps, flags.state
    first = jax.tree.map(jnp.asarray, weights["degradation"])
    prompt = jax.tree.map(jnp.asarray, weights["unet"]["degradation"])
    with config.unlocked():
        config.stage_one.optim.update({"name": "muon", "steps": steps, "learning_rate": _RATE})
        config.stage_one.optim.update({"warmup_steps": min(_WARMUP, steps // 10)})
        config.stage_one.optim.update({"weight_decay": 0.0, "clip_norm": 1.0})
    optimizer = make_optimizer(config.stage_one.optim)
    learner = Learner(first, optimizer.init(first), 0)
    if kept and kept.exists():
        learner = serialization.from_bytes(learner, kept.read_bytes())
        print(f"{kept}: goes on after step {learner.step} of {steps}", flush=True)
    step = make_step(config, first, prompt, optimizer, flags.keep)
    begun = int(learner.step)
    mixture = tower_lessons.mixture(tuple(config.data.degradations), _SHARES)
    photographed = {"dark_share": 0.2, "vivid_share": 0.3, "soft_share": 0.2}
    order = {"seed": 11, "batch_size": _BATCH, "first_batch": begun}
    order["workers"] = flags.workers
    batches = iter(tower_lessons.crops(flags.photos, mixture, _CROP, **order, **photographed))
    recent = []
    with Progress(steps, "teaching", unit="step", initial=begun, lines=False) as progress:
        for number in range(begun + 1, steps + 1):
            batch = next(batches)
            learner, told = step(learner, {key: batch[key] for key in ("lq", "label")})
            recent = [*recent[1 - _SHOWN_EVERY :], jax.device_get(told)]
            progress.advance()
            if number % _SHOWN_EVERY == 0 or number == steps:
                means = {key: np.mean([row[key] for row in recent]) for key in told}
                shown = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
                print(f"step {number} of {steps}: {shown}", flush=True)
            if kept and (number % _KEPT_EVERY == 0 or number == steps):
                with replacing(kept) as path:
                    path.write_bytes(serialization.to_bytes(jax.device_get(learner)))
    return jax.device_get(learner.params)


def main(arguments: list[str] | None = None) -> int:
    """Teach and write the weights; return the exit status."""
    parser = tower_lessons.parser(__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4400, help=f"of {_BATCH} crops each")
    parser.add_argument("--state", type=pathlib.Path, help="kept here, to go on from")
    parser.add_argument("--keep", type=float, default=20.0, help="how much the prompt stays")
    parser.add_argument("--workers", type=int, default=1, help="processes that make the crops")
    flags = parser.parse_args(arguments)
    if not absl_flags.FLAGS.is_parsed():  # the data pipeline's worker process reads them
        absl_flags.FLAGS(["teach_names"])

    def lesson():
        description, weights, config = tower_lessons.load(flags.checkpoint)
        weights["degradation"] = learn(config, weights, flags)
        return description, weights

    return tower_lessons.write(flags.output, lesson)


if __name__ == "__main__":
    sys.exit(main())
