"""Attention that never holds all its scores, for the UNet and for the backbones."""

import functools

import jax
import jax.numpy as jnp
from absl import logging

# Scores of one image held at once, over heads, queries and keys, 64 MiB; more come in turns.
# Counted by image since under `jit` the batch is that of all devices together.
_MAX_SCORES = 2**24
# On CPUs, for one head; few enough to stay in cache.  16 MiB.
_MAX_CPU_SCORES = 2**22
# On TPUs, for one image.  With eight images on a chip the scores take 32 MiB: they stay in its fast
# memory.
_MAX_TPU_SCORES = 2**20
# With fewer scores than this for a head, the plain form is as fast on CPUs, and fits on TPUs.
_MIN_SCORES = 2**20


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, parts: int = 1, *, whole: bool = False
) -> jax.Array:
    """Return softmax(q k^T d^-1/2) v without ever holding all scores of a large image.

    Queries are taken in turns, so memory grows with the number of keys, not with its square; every
    query still meets every key, so the result is the same.

    Args:
      q: [B, N, heads, d].
      k, v: [B, M, heads, d].
      parts: over how many devices the heads are split.
      whole: each device has images, and their heads, whole; a GPU's flash kernel needs that.

    Returns:
      [B, N, heads, d].
    """
    if q.shape[1] * k.shape[1] < _MIN_SCORES:
        return attend_in_turns(q, k, v)
    few_heads = functools.partial(attend_to_few_heads, parts=parts)
    ways = {"cpu": attend_by_head, "tpu": few_heads, "default": attend_in_turns}
    if whole and _fits_flash(q) and _gpus_have_flash():
        ways["cuda"] = _attend_by_cudnn
    return jax.lax.platform_dependent(q, k, v, **ways)


def _fits_flash(q: jax.Array) -> bool:
    """Tell whether cuDNN's flash kernel takes queries of this type and width."""
    return q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128


@functools.cache
def _gpus_have_flash() -> bool:
    """Tell whether this process has NVIDIA GPUs, all of Ampere (8.0) or later, and a cuDNN."""
    if min(_capabilities(), default=0) < 8:
        return False
    few = jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16)
    try:
        jax.eval_shape(_attend_by_cudnn, few, few, few)
    except (RuntimeError, NotImplementedError) as error:  # no cuDNN, or too old for these GPUs
        logging.warning("Full attention goes without cuDNN's flash kernel: %s", error)
        return False
    return True


def _capabilities() -> list[float]:
    """Return the compute capabilities of the NVIDIA GPUs that programs are compiled for."""
    try:
        gpus = jax.local_devices(backend="cuda")
    except RuntimeError:  # none, or not for this process
        return list(_PLANNED)
    return [float(gpu.compute_capability) for gpu in gpus]


_PLANNED: list[float] = []


def compile_for(capability: float) -> None:
    """Take an NVIDIA GPU of this compute capability for present, since it is compiled for only."""
    _PLANNED[:] = [capability]
    _gpus_have_flash.cache_clear()


_attend_by_cudnn = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")


def attend_to_few_heads(q: jax.Array, k: jax.Array, v: jax.Array, parts: int = 1) -> jax.Array:
    """Attend with few heads at a time; arguments and result as for `attend`.

    Their scores stay in a TPU's fast memory, where the backward pass computes them again.  Heads
    and not queries take turns: where image rows are split over devices, each then gathers the keys
    of every head once.
    """
    batch, _, heads, width = q.shape
    if heads % parts:
        parts = 1
    at_once = max(1, _MAX_TPU_SCORES // (q.shape[1] * k.shape[1])) * parts
    least = -(-heads // at_once)
    turns = next(n for n in range(least, heads + 1) if heads // parts % n == 0)

    def split(x):
        # Each device has its part of the heads in every turn.
        return jnp.moveaxis(x.reshape(batch, -1, heads // turns, turns, width), 3, 0)

    if turns == 1:
        return attend_in_turns(q, k, v)
    some = jax.checkpoint(lambda matrices: attend_in_turns(*matrices))
    out = jax.lax.map(some, (split(q), split(k), split(v)))
    return jnp.moveaxis(out, 0, 3).reshape(q.shape)


def attend_in_turns(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attend with all heads at once; arguments and result as for `attend`."""
    most = max(1, _MAX_SCORES // (q.shape[2] * k.shape[1]))
    return _in_turns(lambda part: jax.nn.dot_product_attention(part, k, v), q, 1, most)


def attend_by_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attend head by head, with plain matrix products; arguments and result as for `attend`.

    XLA's CPU backend runs products with batch axes ten times slower than those of two matrices.
    """
    batch, queries, heads, width = q.shape
    most = max(1, _MAX_CPU_SCORES // k.shape[1])

    def head(matrices):
        q, k, v = matrices
        return _in_turns(lambda part: _attend_head(part, k, v), q, 0, most, recompute=False)

    by_head = tuple(x.swapaxes(1, 2).reshape(batch * heads, -1, width) for x in (q, k, v))
    out = jax.lax.map(head, by_head)
    return out.reshape(batch, heads, queries, width).swapaxes(1, 2)


@jax.custom_vjp
def _attend_head(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attend with one head, [N, d], [M, d], [M, d] -> [N, d]; its gradient keeps no scores."""
    return _attend_head_forward(q, k, v)[0]


def _attend_head_forward(q, k, v):
    scores = _product(q, k.T) * q.shape[-1] ** -0.5
    top = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    out = (_product(weights.astype(v.dtype), v) / total).astype(v.dtype)
    return out, (q, k, v, out, top + jnp.log(total))


def _attend_head_backward(kept, dout):
    """Return the gradients (dq, dk, dv) by the scores computed again.

    With weights p = softmax(s), s = q k^T d^-1/2: dv = p^T do and ds = p (do v^T - <do, o>)
    (arXiv 2205.14135, appendix B).  All stand transposed here, [M, N]: XLA's CPU backend copies a
    first factor that lies transposed.
    """
    q, k, v, out, log_total = kept
    scale = q.shape[-1] ** -0.5
    weights = jnp.exp(_product(k, q.T) * scale - log_total.T)
    dv = _product(weights.astype(v.dtype), dout).astype(v.dtype)
    along = (dout.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1)
    dscores = (weights * (_product(v, dout.T) - along) * scale).astype(q.dtype)
    dq = _product(k.T, dscores).T.astype(q.dtype)
    return dq, _product(dscores, q).astype(k.dtype), dv


_attend_head.defvjp(_attend_head_forward, _attend_head_backward)


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    # By XLA: calls of oneDNN (`products`) were slower for a head of 1024 pixels.
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _in_turns(attend, q: jax.Array, axis: int, most: int, *, recompute: bool = True) -> jax.Array:
    """Apply `attend` to at most `most` of the queries, which lie along `axis`, at a time.

    One turn takes every n-th query: where image rows, and so queries, are split over devices, each
    device then has its part in every turn.  `recompute`: `attend` would keep its scores for the
    backward pass, so it is called again there.
    """
    queries = q.shape[axis]
    if queries <= most:
        return attend(q)
    turns = _number_of_turns(queries, most)
    length = -(-queries // turns)
    padding = [(0, 0)] * q.ndim
    padding[axis] = (0, length * turns - queries)
    shape = (*q.shape[:axis], length, turns, *q.shape[axis + 1 :])
    parts = jnp.moveaxis(jnp.pad(q, padding).reshape(shape), axis + 1, 0)
    out = jax.lax.map(jax.checkpoint(attend) if recompute else attend, parts)
    out = jnp.moveaxis(out, 0, axis + 1).reshape(
        *q.shape[:axis], length * turns, *out.shape[axis + 2 :]
    )
    return jax.lax.slice_in_dim(out, 0, queries, axis=axis)


def _number_of_turns(queries: int, most: int) -> int:
    """Return how many turns to take: such that no padding is needed, where that costs little."""
    least = -(-queries // most)
    return next((n for n in range(least, 2 * least + 1) if queries % n == 0), least)
