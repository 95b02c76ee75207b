"""The compiled program: a batch of degraded images of one size in, restored images out."""

import functools
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed.batches import batch_sharding
from tpgdiff_jax.distributed.sharding import AXES
from tpgdiff_jax.inference.guidance import AS_TRAINED, Guidance, guided
from tpgdiff_jax.inference.kept_programs import KeptPrograms
from tpgdiff_jax.inference.passes import ONCE, Passes, shown
from tpgdiff_jax.inference.results import RestoredBatch, merged, rounded, summarised, unit_range
from tpgdiff_jax.inference.tiling import overlap_of, tiled
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.priors import Priors


@functools.partial(
    jax.jit,
    static_argnames=(
        *("model", "sde", "sampler", "steps", "prediction", "clamp"),
        *("tile", "windows", "samples", "at_once", "ensemble", "passes", "mesh"),
    ),
)
def run_batch(
    variables: Any,
    lq: jax.Array,
    keys: jax.Array,
    *,
    model: TPGDiff,
    sde: IRSDE,
    sampler: str,
    steps: int,
    prediction: str,
    clamp: bool = False,
    tile: int = 0,
    windows: int = 1,
    guidance: Guidance = AS_TRAINED,
    samples: int = 1,
    at_once: int | None = None,
    ensemble: int = 1,
    passes: Passes = ONCE,
    mesh: Mesh | None = None,
) -> RestoredBatch:
    """Restore images: priors once, then one compiled loop over the sampler's steps.

    Args:
      variables: the system's {"params", "frozen"}; `params` the running average of a trained run.
      lq: degraded images, uint8 [B, H, W, 3], or float in [0, 1].
      keys: one random key per sample [B * samples], those of one image together; a sample depends
        on its own key only.
      model, sde: the system and the SDE it was trained with.
      sampler, steps, prediction, clamp: see `samplers.sample`.
      tile: side of the windows the network sees, pixels; 0 for the whole image.
      windows: how many windows of each image the network sees at once.
      guidance: branches that count otherwise than in training.
      samples: restorations drawn of each image.
      at_once: how many of them are drawn together, a divisor of `samples`; all by default.
      ensemble: views of each image whose restorations are averaged, see `mirrored`; each sample is
        such an average.
      passes: how often images that still look degraded are restored, from the result before.
      mesh: whole images lie over (`data`, `fsdp`), their rows over `spatial`; windows lie over all
        devices, so their number (times B) must be a multiple of them.
    """
    at_once = at_once or samples
    options = {"steps": steps, "prediction": prediction, "clamp": clamp}
    turns = keys_by_turn(keys, samples, at_once)

    def drawn_of(image):
        mu, priors, logits = prepare(model, variables, image, at_once)
        network = network_of(model, variables, priors, guidance, tile, windows, mesh)
        mu = placer(mesh, by_rows=not tile)(mu)

        def draw(keys):
            return samplers.sample(sampler, network, sde, mu, keys, **options)

        return draw(turns[0])[None] if len(turns) == 1 else jax.lax.map(draw, turns), logits

    def once(image):
        if ensemble == 1:
            return summarised(*drawn_of(image), at_once)

        def view(number):
            drawn, logits = drawn_of(mirrored(image, number))
            return mirrored(drawn, number), logits

        drawn, logits = jax.lax.map(view, jnp.arange(ensemble))
        return summarised(drawn.mean(0), None if logits is None else logits[0], at_once)

    def again(number, found):
        logits = classified(model, variables, found.restored)
        needed = (number == 0) | shown(logits, passes.filled())

        def after_one_more():
            return merged(needed, once(found.restored), found)

        return jax.lax.cond(needed.any(), after_one_more, lambda: found)

    image = unit_range(lq)
    if passes.most == 1:
        return rounded(once(image), lq.dtype)
    nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(once, image))
    found = jax.lax.fori_loop(0, passes.most, again, nothing.replace(restored=image))
    return rounded(found, lq.dtype)


def mirrored(images: jax.Array, view: jax.Array | int) -> jax.Array:
    """Return a view of images, or of a view the images again.

    Args:
      images: [..., H, W, C].
      view: 0 as they are, 1 mirrored, 2 upside down, 3 both; may be traced.
    """
    images = jnp.where(view % 2 == 1, jnp.flip(images, -2), images)
    return jnp.where(view >= 2, jnp.flip(images, -3), images)


def prepare(
    model: TPGDiff, variables: Any, mu: jax.Array, at_once: int
) -> tuple[jax.Array, Priors, jax.Array | None]:
    """Return what every step needs, computed once: mu, priors and the classifier's logits.

    Args:
      model, variables: as for `run_batch`.
      mu: degraded images, float32 [B, H, W, 3] in [0, 1].
      at_once: copies of each image that follow each other, one for each sample drawn together.
    """
    priors, logits = model.apply(variables, mu, method="priors_and_logits")
    priors = jax.tree.map(lambda p: jnp.repeat(p, at_once, axis=0), priors)
    return jnp.repeat(mu, at_once, axis=0), priors, logits


def network_of(
    model: TPGDiff,
    variables: Any,
    priors: Priors,
    guidance: Guidance,
    tile: int,
    windows: int,
    mesh: Mesh | None,
) -> samplers.Denoise:
    """Return the network as a sampler calls it: with its priors, in windows, on the mesh.

    Args:
      priors: of `prepare`.
      The others as for `run_batch`.
    """

    def denoise(x_t, mu, t):
        count = mu.shape[0] // _batch_of(priors, mu)  # windows of each image
        theirs = jax.tree.map(lambda p: jnp.tile(p, (count, *[1] * (p.ndim - 1))), priors)

        def answer(priors):
            return model.apply(variables, x_t, mu, t, priors, method="denoise")

        return guided(answer, theirs, guidance, x_t.shape)

    if tile:
        return tiled(denoise, tile, overlap_of(tile), windows, placer(mesh, by_rows=False))
    place = placer(mesh, by_rows=True)
    return lambda x_t, mu, t: denoise(place(x_t), mu, t)


def _batch_of(priors: Priors, mu: jax.Array) -> int:
    return next((len(leaf) for leaf in jax.tree.leaves(priors)), len(mu))


def keys_by_turn(keys: jax.Array, samples: int, at_once: int) -> jax.Array:
    """Sort the keys [B * samples] of images: [turns, B * at_once], `at_once` of each in a turn."""
    turns = samples // at_once
    return keys.reshape(-1, turns, at_once).swapaxes(0, 1).reshape(turns, -1)


def name_hashes(names: Iterable[str], samples: int = 1) -> np.ndarray:
    """Return what an image's name does to its noise: a number for each sample of each image.

    Args:
      names: of the images.
      samples: drawn of each image; the first one has the number of the image restored alone.

    Returns:
      uint32 [images * samples], those of one image together.
    """
    names = [f"{name}/sample {n}" if n else name for name in names for n in range(samples)]
    # A file's name may be no text; its bytes come back as they are on the disk.
    encoded = (name.encode("utf-8", "surrogateescape") for name in names)
    return np.array([zlib.crc32(name) for name in encoded], np.uint32)


def noise_keys(seed: int, hashes: Any) -> jax.Array:
    """Return a random key [B] for each of `name_hashes`; it depends on that and the seed alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), hashes)


def placer(mesh: Mesh | None, by_rows: bool) -> Callable[[jax.Array], jax.Array]:
    """Return what lays images over a mesh, by rows or whole ones over all devices."""
    if mesh is None:
        return lambda images: images
    where = batch_sharding(mesh, 4) if by_rows else NamedSharding(mesh, PartitionSpec(AXES))
    return lambda images: jax.lax.with_sharding_constraint(images, where)


def classify(variables: Any, lq: jax.Array, *, model: TPGDiff) -> jax.Array:
    """Return the degradation classifier's logits [B, classes] of images [B, H, W, 3]."""
    KEPT_CLASSIFIERS.make_room((lq.shape, lq.dtype, model))
    return _classify(variables, lq, model=model)


@functools.partial(jax.jit, static_argnames="model")
def _classify(variables: Any, lq: jax.Array, *, model: TPGDiff) -> jax.Array:
    return classified(model, variables, lq)


def classified(model: TPGDiff, variables: Any, images: jax.Array) -> jax.Array:
    return model.apply(variables, images, method="priors_and_logits")[1]


KEPT_CLASSIFIERS = KeptPrograms(_classify)
