"""Teach the degradation tower of weights what it overlooks, so that the UNet can stay as it is.

    python launch/teach_tower.py --photos=PHOTOS --output=FILE.safetensors
        [--checkpoint=FILE.safetensors] [--lessons=550] [--statistics=FILE.npz]

The UNet restores what its prompt, made of the tower's vector, tells it to.  Where a photo holds the
coarse grain that a camera's processing leaves of its noise, a tower that was trained on fine grain
sees nothing.  So its projection, which makes the vector of the statistics of its features, learns
here to prompt for coarse grain what it prompted for fine grain, for dark photos with noise what it
prompted for bright ones, and for all else what it did.  The classes, which name degradations, are
fitted anew to the vectors.  Every other weight stays as it is.  Minutes on two cores: features are
computed once, and only these two matrices are fitted.
"""

import itertools
import pathlib
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tower_lessons

from tpgdiff_jax.data.degradations.mix import Mixture, Recipe, step_params
from tpgdiff_jax.data.degradations.registry import DEGRADATIONS
from tpgdiff_jax.models.layers import DegradationPrompt
from tpgdiff_jax.models.tpgdiff import degradation_prior
from tpgdiff_jax.priors.degradation import classification_loss
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import replacing
from tpgdiff_jax.training.state import to_unit_range

_CROP, _BATCH = 128, 32
# How often each degradation comes, relative to the others.
_SHARES = {"camera_noise": 5.0}
# Grain that the first tower knows well, in pixels.
_FINE = {"luma_grain": 0.4, "chroma_grain": 1.0}
_STEPS, _RATE = 120, 3e-5
_KEEP = 2.0  # what the other examples weigh, against those of coarse grain
_LOW_LIGHT = 1.0  # what those that lack light weigh more: they look much like dark photos
_PULL = 1e-4  # towards the first projection; per squared coefficient of a statistic of unit spread
_STEPS_CLASSES, _PULL_CLASSES = 100, 1.0  # of the classes, towards the first ones
_TESTED = 0.1  # of the lessons, which are not learned from

Arrays = dict[str, np.ndarray]


def with_fine_grain(gt: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Degrade a clean image uint8 [H, W, 3] by a recipe, but let camera noise have a fine grain."""
    image = gt.astype(np.float32) / 255
    for name, params in step_params(recipe):
        if name == "camera_noise":
            params = params | {key: min(params[key], most) for key, most in _FINE.items()}
        image = DEGRADATIONS[name].apply(image, **params)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def lesson(example: Arrays, mixture: Mixture) -> Arrays:
    """Return what is learned from a batch of `training_batches`.

    Returns:
      {lq, like: uint8 [B, H, W, 3], label: float32 [B, K]}; lq is to prompt what `like` did.
    """
    like = example["lq"].copy()
    for row in np.flatnonzero(example["severity"][:, mixture.names.index("camera_noise")]):
        recipe = mixture.decode(example["severity"][row], int(example["recipe_seed"][row]))
        like[row] = with_fine_grain(example["gt"][row], recipe)
    return {"lq": example["lq"], "like": like, "label": example["label"]}


def lessons_of(photos: pathlib.Path, names: tuple[str, ...]) -> Iterator[Arrays]:
    """Yield lessons without end; photos are rendered as in tuning, but more of them dark."""
    mixture = tower_lessons.mixture(names, _SHARES)
    photographed = {"dark_share": 0.3, "vivid_share": 0.4, "soft_share": 0.3}
    batches = tower_lessons.crops(photos, mixture, _CROP, seed=7, batch_size=_BATCH, **photographed)
    return (lesson(example, mixture) for example in batches)


def statistics(prior: Any, params: Any, lessons: Iterator[Arrays], count: int) -> Arrays:
    """Look at `count` lessons with the first tower.

    Returns:
      {seen [N, S]: statistics of lq; wanted [N, E]: vectors of `like`; label [N, K]; is_new: bool
      [N], where the two pictures differ}.
    """

    @jax.jit
    def look(images):
        view = prior.backbone.view(to_unit_range(images))
        (vectors, _), kept = prior.apply(
            {"params": params},
            view,
            capture_intermediates=lambda module, _: module.name == "norm",
            mutable=["intermediates"],
        )
        return jax.tree.leaves(kept)[0], vectors

    rows = []
    for number, batch in enumerate(itertools.islice(lessons, count), 1):
        seen, wanted = look(batch["lq"])[0], look(batch["like"])[1]
        is_new = (batch["like"] != batch["lq"]).any(axis=(1, 2, 3))
        rows.append((np.asarray(seen), np.asarray(wanted), batch["label"], is_new))
        if number % 50 == 0 or number == count:
            print(f"lesson {number} of {count}", flush=True)
    names = ("seen", "wanted", "label", "is_new")
    return dict(zip(names, map(np.concatenate, zip(*rows, strict=True)), strict=True))


def corrected(found: Arrays, classes: Arrays, names: tuple[str, ...]) -> Arrays:
    """Return the statistics without what the first tower got wrong: dark photos for lack of light.

    Those with nothing but camera noise are to prompt what such noise does on the average; the
    others are left out.

    Args:
      found: of `statistics`.
      classes: the first ones, {kernel [E, K], bias [K]}.
      names: of the classes.

    Returns:
      as `statistics`, and weight [N]: what each example counts.
    """
    said = jax.nn.sigmoid(found["wanted"] @ classes["kernel"] + classes["bias"])
    dark, noisy = np.asarray(said).T[[names.index("low_light"), names.index("camera_noise")]]
    is_wrong = (found["label"][:, names.index("low_light")] == 0) & (dark > 0.2)
    alone = found["is_new"] & (found["label"].sum(axis=-1) == 1)
    wanted = found["wanted"].copy()
    if (alone & is_wrong).any() and (good := alone & (noisy > 0.7) & (dark < 0.1)).any():
        wanted[alone & is_wrong] = wanted[good].mean(axis=0)
    kept = alone | ~is_wrong
    weight = 1 + _LOW_LIGHT * found["label"][:, names.index("low_light")]
    new = {"wanted": wanted, "weight": weight.astype(np.float32)}
    return {name: value[kept] for name, value in (found | new).items()}


def fit_projection(found: Arrays, projection: Arrays, prompt: Any) -> Arrays:
    """Return the projection whose vectors prompt what is wanted, near the first one; says how near.

    Args:
      found: of `corrected`.
      projection: {kernel [S, E], bias [E]}.
      prompt: the parameters of the UNet's prompt.
    """
    seen, is_new, weight = (jnp.array(found[name]) for name in ("seen", "is_new", "weight"))
    learned = jnp.arange(len(seen)) < round(len(seen) * (1 - _TESTED))
    # In directions of unit spread one rate suits all.
    spread, axes = np.linalg.eigh(np.cov(found["seen"].T) + 1e-4 * np.eye(seen.shape[1]))
    axes = jnp.array(axes / np.sqrt(spread), jnp.float32)

    def ask(vectors):
        return DegradationPrompt(prompt["prompt"].shape[-1]).apply({"params": prompt}, vectors)

    wanted = ask(jnp.array(found["wanted"]))
    varies = jnp.square(wanted - wanted.mean(axis=0)).sum(axis=-1).mean()

    def moved(move):
        kernel, bias = move
        return projection["kernel"] + axes @ kernel, projection["bias"] + bias

    def far(move):
        kernel, bias = moved(move)
        return jnp.square(ask(seen @ kernel + bias) - wanted).sum(axis=-1) / varies

    def loss(move):
        away = far(move)
        new, old = (_mean(away, weight * (chosen & learned)) for chosen in (is_new, ~is_new))
        return new + _KEEP * old + _PULL * jnp.square(move[0]).sum() / move[0].shape[-1]

    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, _STEPS))
    move = tuple(jnp.zeros_like(jnp.array(projection[name])) for name in ("kernel", "bias"))
    state = optimizer.init(move)

    @jax.jit
    def step(move, state):
        updates, state = optimizer.update(jax.grad(loss)(move), state)
        return optax.apply_updates(move, updates), state

    for number in range(_STEPS + 1):
        if number in (0, _STEPS):
            away = far(move)
            new, old = (float(_mean(away, chosen & ~learned)) for chosen in (is_new, ~is_new))
            print(f"step {number}: coarse grain {new:.3f} and the rest {old:.3f} from the wanted")
        move, state = step(move, state)
    return dict(zip(("kernel", "bias"), map(np.asarray, moved(move)), strict=True))


def _mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    return (weight * values).sum() / jnp.maximum(weight.sum(), 1)


def fit_classes(vectors: np.ndarray, label: np.ndarray, classes: Arrays) -> Arrays:
    """Return classes {kernel [E, K], bias [K]} that name better, near the first; says how well.

    Args:
      vectors, label: what the classes see [N, E], and what is true [N, K].
      classes: the first ones.
    """
    middle, spread = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    x, label = jnp.array((vectors - middle) / spread), jnp.array(label)
    learned = jnp.arange(len(x)) < round(len(x) * (1 - _TESTED))
    first = jnp.array(classes["kernel"] * spread[:, None])
    bias = jnp.array(classes["bias"] + middle @ classes["kernel"])

    def answers(move):
        return x @ (first + move[0]) + bias + move[1]

    def loss(move):
        wrong = _mean(classification_loss(answers(move), label, kind="multi"), learned)
        return wrong + _PULL_CLASSES * jnp.square(move[0]).sum()

    solver = optax.lbfgs()
    move = (jnp.zeros_like(first), jnp.zeros_like(bias))
    state = solver.init(move)

    @jax.jit
    def step(move, state):
        value, gradient = optax.value_and_grad_from_state(loss)(move, state=state)
        updates, state = solver.update(
            gradient, state, move, value=value, grad=gradient, value_fn=loss
        )
        return optax.apply_updates(move, updates), state

    for number in range(_STEPS_CLASSES + 1):
        if number in (0, _STEPS_CLASSES):
            right = answers(move).argmax(axis=-1) == label.argmax(axis=-1)
            named = float(_mean(right, (label.sum(axis=-1) == 1) & ~learned))
            print(f"step {number}: {named:.1%} of single degradations named first")
        move, state = step(move, state)
    kernel = np.asarray(first + move[0]) / spread[:, None]
    return {"kernel": kernel, "bias": np.asarray(bias + move[1]) - middle @ kernel}


def _kept(path: pathlib.Path | None, weights: str, lessons: int) -> Arrays | None:
    """Return the statistics that an earlier start has kept; None where it has not.

    Args:
      path: of their file.
      weights: fingerprint of those that looked at the lessons.
      lessons: how many there were.

    Raises:
      UserError: the file is damaged, or its statistics are of other weights or lessons.
    """
    if path is None or not path.exists():
        return None
    try:
        found = dict(np.load(path))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"--statistics={path} is damaged; remove it.") from error
    if (found.pop("weights", weights), found.pop("lessons", lessons)) != (weights, lessons):
        raise UserError(
            f"--statistics={path} are those of other weights, or of another number of lessons; "
            "name another file, or remove this one."
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Teach and write the weights; return the exit status."""
    parser = tower_lessons.parser(__doc__.splitlines()[0])
    parser.add_argument("--lessons", type=int, default=550, help=f"of {_BATCH} crops each")
    parser.add_argument("--statistics", type=pathlib.Path, help="kept here, for another fit")
    flags = parser.parse_args(arguments)

    def lesson():
        description, weights, config = tower_lessons.load(flags.checkpoint)
        if missing := {"low_light", "camera_noise"} - set(config.data.degradations):
            raise UserError(f"{flags.checkpoint} does not know {', '.join(sorted(missing))}.")
        with config.unlocked():
            config.model.dtype = "float32"  # on CPUs XLA's convolutions are faster in it
        tower = weights["degradation"]
        found = _kept(flags.statistics, description["weights"], flags.lessons)
        if found is None:
            lessons = lessons_of(flags.photos, tuple(config.data.degradations))
            found = statistics(degradation_prior(config), tower, lessons, flags.lessons)
            if flags.statistics:
                about = {"weights": description["weights"], "lessons": flags.lessons}
                with replacing(flags.statistics) as path, path.open("wb") as file:
                    np.savez(file, **found, **about)
        prompt = weights["unet"]["degradation"]
        right = corrected(found, tower["classes"], tuple(config.data.degradations))
        projection = fit_projection(right, tower["backbone"]["proj"], prompt)
        vectors = found["seen"] @ projection["kernel"] + projection["bias"]
        tower["backbone"]["proj"] = projection
        tower["classes"] = fit_classes(vectors, found["label"], tower["classes"])
        return description, weights

    return tower_lessons.write(flags.output, lesson)


if __name__ == "__main__":
    sys.exit(main())
