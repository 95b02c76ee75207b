"""What a batch of images becomes, on the devices."""

import flax.struct
import jax
import jax.numpy as jnp


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
      passes: how often each image was restored in a row, int32 [B].
    """

    restored: jax.Array
    deviation: jax.Array | None
    logits: jax.Array | None
    finite: jax.Array
    passes: jax.Array


def unit_range(lq: jax.Array) -> jax.Array:
    """Return images, uint8 or float in [0, 1], as float32 in [0, 1]."""
    return jnp.asarray(lq, jnp.float32) / (255 if lq.dtype == jnp.uint8 else 1)


def summarised(drawn: jax.Array, logits: jax.Array | None, at_once: int) -> RestoredBatch:
    """Turn samples into results of one pass, float32.

    Args:
      drawn: float32 [turns, B * at_once, H, W, 3], those of an image together in every turn.
      logits: of the images.
      at_once: samples of an image in a turn.
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
    return RestoredBatch(drawn, deviation, logits, finite, jnp.ones(len(drawn), jnp.int32))


def merged(needed: jax.Array, new: RestoredBatch, old: RestoredBatch) -> RestoredBatch:
    """Return the results after a further pass.

    One that is not finite stays as it is: clipped it would pass for a picture.

    Args:
      needed: which images needed it, bool [B].
      new: of that pass.
      old: of those before, whose logits tell what degraded the images; of none before the first.
    """
    is_first = old.passes == 0
    needed &= is_first | old.finite

    def chosen(a, b):
        return jnp.where(needed.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    found = jax.tree.map(chosen, new, old)
    passes = old.passes + needed
    if old.logits is None:
        return found.replace(passes=passes)
    logits = jnp.where(is_first[:, None], new.logits, old.logits)
    return found.replace(passes=passes, logits=logits)


def rounded(found: RestoredBatch, dtype: jnp.dtype) -> RestoredBatch:
    """Return results with images of the type that came: uint8, else float32."""
    if dtype != jnp.uint8:
        return found
    return found.replace(restored=jnp.round(found.restored * 255).astype(jnp.uint8))
