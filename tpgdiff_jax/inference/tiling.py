"""Run a network on an image of any size, window by window, at every step of the sampler.

Windows overlap and their answers are blended before the step is taken, so all windows share one
state and one noise field and agree where they meet; tiles restored one after the other do not.  The
idea is that of MultiDiffusion (Bar-Tal et al., arXiv 2302.08113).  Priors are the whole image's.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.diffusion.samplers import Denoise


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where windows begin along one side.

    Args:
      length: of the side, pixels.
      tile: of a window.
      overlap: least overlap of neighbours; smaller than `tile`.

    Returns:
      rising starts; evenly spread, the first at 0, the last window ends at the side's end.
    """
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def overlap_of(tile: int) -> int:
    """Return the least overlap of neighbouring windows of a side."""
    return tile // 8


def count(size: tuple[int, int], tile: int) -> int:
    """Return how many windows of a side an image of a padded (height, width) has."""
    return math.prod(len(starts(length, tile, overlap_of(tile))) for length in size)


def blending_weights(tile: tuple[int, int], overlap: int) -> np.ndarray:
    """Return a window's weights float32 [h, w]: 1 inside, falling linearly over the overlap."""

    def ramp(length: int) -> np.ndarray:
        distance = np.minimum(np.arange(length) + 1, np.arange(length)[::-1] + 1)
        return np.minimum(distance / (overlap + 1), 1.0)

    return np.outer(*(ramp(length) for length in tile)).astype(np.float32)


def tiled(
    denoise: Denoise,
    tile: int,
    overlap: int,
    windows_at_once: int = 1,
    place: Callable[[jax.Array], jax.Array] = lambda windows: windows,
) -> Denoise:
    """Wrap a network so that it sees windows of at most `tile` pixels squared.

    Args:
      denoise: (x_t, mu, t) -> answer, all [n B, h, w, 3] and t [n B] for n windows of B images, the
        images of the first window first; an answer must not depend on its neighbours in a batch.
      tile: side of a window, pixels; images that fit are passed on whole.
      overlap: least overlap of neighbours, pixels.
      windows_at_once: of each image; memory grows with it, not with the image.
      place: lays a batch of windows [n B, h, w, 3] over the devices.

    Returns:
      a function of the same kind for images [B, H, W, 3] of any size.

    Raises:
      ValueError: an overlap that is not smaller than the tile.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap={overlap} must be 0 or more and smaller than tile={tile}.")

    def run(x_t: jax.Array, mu: jax.Array, t: jax.Array) -> jax.Array:
        height, width = x_t.shape[1:3]
        corners = [
            (y, x) for y in starts(height, tile, overlap) for x in starts(width, tile, overlap)
        ]
        if len(corners) == 1:
            return denoise(x_t, mu, t)
        size = (min(tile, height), min(tile, width))
        weights = jnp.asarray(blending_weights(size, overlap))[..., None]
        # The last group is filled up with windows that do not count.
        groups = -(-len(corners) // windows_at_once)
        filling = groups * windows_at_once - len(corners)
        corner_groups = np.array(corners + corners[:1] * filling).reshape(groups, -1, 2)
        counts = np.array([1.0] * len(corners) + [0.0] * filling, np.float32).reshape(groups, -1)
        return _blend(denoise, x_t, mu, t, corner_groups, counts, size, weights, place)

    return run


def _blend(denoise, x_t, mu, t, corner_groups, counts, size, weights, place):
    batch = x_t.shape[0]

    def window(image, corner):
        start = (0, corner[0], corner[1], 0)
        return jax.lax.dynamic_slice(image, start, (batch, *size, image.shape[-1]))

    def add(total, corner, value):
        start = (0, corner[0], corner[1], 0)
        here = jax.lax.dynamic_slice(total, start, (batch, *size, total.shape[-1]))
        return jax.lax.dynamic_update_slice(total, here + value, start)

    def take(totals, step):
        group, count = step
        many = jax.vmap(window, (None, 0))
        # Windows of all images in one batch, window by window.
        inputs = (place(many(image, group).reshape(-1, *size, 3)) for image in (x_t, mu))
        answers = denoise(*inputs, jnp.tile(t, group.shape[0]))
        answers = answers.reshape(group.shape[0], batch, *size, 3)
        total, weight = totals
        for number in range(group.shape[0]):
            share = weights * count[number]
            total = add(total, group[number], answers[number] * share)
            weight = add(weight, group[number], jnp.broadcast_to(share, (batch, *size, 1)))
        return (total, weight), None

    zeros = (jnp.zeros(x_t.shape, jnp.float32), jnp.zeros((*x_t.shape[:3], 1), jnp.float32))
    steps = (jnp.asarray(corner_groups), jnp.asarray(counts))
    (total, weight), _ = jax.lax.scan(take, zeros, steps)
    return total / weight
