"""The compiled program: a batch of degraded images of one size in, restored images out."""

import functools
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import flax.struct
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
from tpgdiff_jax.inference.tiling import overlap_of, tiled
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.priors import Priors


@flax.struct.dataclass
class RestoredBatch:
    """What the program returns.

    Attributes:
      restored: [B, H, W, 3], uint8 for uint8 images, else float32 in [0, 1]; with several samples
        their mean.
      deviation: standard deviation over the samples of each image, root mean square over the
        colours, float32 [B, H, W] in units of the image's range; None for one sample.
      logits: the degradation classifier's [B, classes]; None where there is none.
      finite: whether every value of an image was a number, bool [B].
    """

    restored: jax.Array
    deviation: jax.Array | None
    logits: jax.Array | None
    finite: jax.Array


@functools.partial(
    jax.jit,
    static_argnames=(
        *("model", "sde", "sampler", "steps", "prediction", "clamp"),
        *("tile", "windows", "samples", "at_once", "ensemble", "mesh"),
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
      mesh: whole images lie over (`data`, `fsdp`), their rows over `spatial`; windows lie over all
        devices, so their number (times B) must be a multiple of them.
    """
    at_once = at_once or samples
    options = {"steps": steps, "prediction": prediction, "clamp": clamp}
    turns = keys_by_turn(keys, samples, at_once)

    def restored(lq):
        mu, priors, logits = prepare(model, variables, lq, at_once)
        network = network_of(model, variables, priors, guidance, tile, windows, mesh)
        mu = placer(mesh, by_rows=not tile)(mu)

        def draw(keys):
            return samplers.sample(sampler, network, sde, mu, keys, **options)

        return draw(turns[0])[None] if len(turns) == 1 else jax.lax.map(draw, turns), logits

    def view(number):
        drawn, logits = restored(mirrored(lq, number))
        return mirrored(drawn, number), logits

    if ensemble == 1:
        drawn, logits = restored(lq)
    else:
        drawn, logits = jax.lax.map(view, jnp.arange(ensemble))
        drawn, logits = drawn.mean(0), None if logits is None else logits[0]
    return summarised(drawn, at_once, logits, lq.dtype)


def mirrored(images: jax.Array, view: jax.Array | int) -> jax.Array:
    """Return a view of images, or of a view the images again.

    Args:
      images: [..., H, W, C].
      view: 0 as they are, 1 mirrored, 2 upside down, 3 both; may be traced.
    """
    images = jnp.where(view % 2 == 1, jnp.flip(images, -2), images)
    return jnp.where(view >= 2, jnp.flip(images, -3), images)


def prepare(
    model: TPGDiff, variables: Any, lq: jax.Array, at_once: int
) -> tuple[jax.Array, Priors, jax.Array | None]:
    """Return what every step needs, computed once: mu, priors and the classifier's logits.

    Args:
      model, variables, lq: as for `run_batch`.
      at_once: copies of each image that follow each other, one for each sample drawn together.
    """
    mu = lq.astype(jnp.float32) / (255 if lq.dtype == jnp.uint8 else 1)
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


def summarised(
    drawn: jax.Array, at_once: int, logits: jax.Array | None, dtype: jnp.dtype
) -> RestoredBatch:
    """Turn samples into results.

    Args:
      drawn: float32 [turns, B * at_once, H, W, 3], those of an image together in every turn.
      at_once: samples of an image in a turn.
      logits: of the images.
      dtype: of the images that came.
    """
    turns, shape = len(drawn), drawn.shape[2:]
    drawn = drawn.reshape(turns, -1, at_once, *shape).swapaxes(0, 1)
    drawn = drawn.reshape(-1, turns * at_once, *shape)
    finite = jnp.isfinite(drawn).all(axis=(1, 2, 3, 4))
    drawn = jnp.clip(drawn, 0, 1)
    deviation = None
    if drawn.shape[1] > 1:
        deviation = jnp.sqrt(drawn.var(axis=1, ddof=1).mean(axis=-1))
    drawn = drawn.mean(axis=1) if drawn.shape[1] > 1 else drawn[:, 0]
    restored = jnp.round(drawn * 255).astype(jnp.uint8) if dtype == jnp.uint8 else drawn
    return RestoredBatch(restored, deviation, logits, finite)


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
    return model.apply(variables, lq, method="priors_and_logits")[1]


KEPT_CLASSIFIERS = KeptPrograms(_classify)
