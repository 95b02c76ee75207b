"""Convolutions and products through oneDNN and through XLA, in turns, at the networks' sizes."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from launch.bench.measure import Program, in_turns
from tpgdiff_jax import native
from tpgdiff_jax.backbones.convolution import convolve, pointwise
from tpgdiff_jax.reporting.errors import UserError

# (side of the kernel, stride, channels, features, side of the images, batch): of the full-width
# UNet at 256x256, and of small ones in batches.
SHAPES = (
    (7, 1, 6, 64, 256, 1),
    (3, 1, 64, 64, 256, 1),
    (3, 1, 128, 128, 128, 1),
    (3, 1, 256, 256, 64, 1),
    (3, 1, 512, 512, 32, 1),
    (4, 2, 64, 128, 256, 1),
    (3, 1, 32, 32, 64, 8),
    (3, 1, 64, 64, 32, 8),
    (1, 1, 64, 384, 256, 1),
    (1, 1, 128, 64, 256, 1),
    (1, 1, 512, 512, 32, 1),
    (1, 1, 32, 384, 64, 8),
)


def bench_convolutions(
    dtype: str, repeats: int, shapes: Sequence[tuple[int, ...]] = SHAPES
) -> list[dict[str, Any]]:
    """Compare both ways; a row for each shape and direction, with GFLOP/s and their ratio.

    Backward is both gradients.

    Args:
      dtype: of the images; kernels are float32.
      repeats: counted runs of each.
      shapes: as `SHAPES`.

    Raises:
      UserError: oneDNN cannot run here; says what is missing.
    """
    rows = []
    before = native.chosen()
    try:
        for shape in shapes:
            rows += _measure(shape, jnp.dtype(dtype), repeats)
    finally:
        native.choose(before)
    return rows


def _measure(shape: tuple[int, ...], dtype: jnp.dtype, repeats: int) -> list[dict[str, Any]]:
    x, kernel, dy = _operands(shape, dtype)
    forward, backward = _functions(*shape[:2])
    flop = 2 * shape[0] ** 2 * shape[2] * dy.size
    rows = []
    for what, function, arguments, work in (
        ("forward", forward, (x, kernel), flop),
        ("backward", backward, (x, kernel, dy), 2 * flop),
    ):
        programs = {}
        for way in ("onednn", "xla"):
            _choose(way)
            # A function of its own each time: JAX would reuse what was traced the other way.
            programs[way] = Program(lambda *args, f=function: f(*args), arguments)
        runners = {w: functools.partial(p.compiled, *arguments) for w, p in programs.items()}
        seconds = in_turns(runners, repeats)
        size, stride, channels, features, side, batch = shape
        row = {"what": f"{size}x{size}/{stride} {what}", "dtype": dtype.name, "batch": batch}
        row |= {"size": f"{side}x{side}", "channels": f"{channels} -> {features}"}
        # The fastest turns are compared: whatever else runs on the machine only adds.
        best = {way: min(taken) for way, taken in seconds.items()}
        row |= {f"{way} GFLOP/s": round(work / taken / 1e9) for way, taken in best.items()}
        row["times_faster"] = best["xla"] / best["onednn"]
        rows.append(row)
    return rows


def _choose(way: str) -> None:
    try:
        native.choose(way)
    except native.ChoiceError as error:
        raise UserError(str(error)) from error


def _operands(shape: tuple[int, ...], dtype: jnp.dtype) -> tuple[jax.Array, ...]:
    """Draw images, kernel and the result's gradient."""
    size, stride, channels, features, side, batch = shape
    kernel = (channels, features) if size == 1 else (size, size, channels, features)
    sizes = ((batch, side, side, channels), kernel, (batch, *(side // stride,) * 2, features))
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, dy = (jax.random.normal(k, s) for k, s in zip(keys, sizes, strict=True))
    return x.astype(dtype), kernel, dy.astype(dtype)


def _functions(size: int, stride: int):
    side = ((size - stride) // 2,) * 2

    def forward(x, kernel):
        if size == 1:
            return pointwise(x, kernel)
        return convolve(x, kernel, None, stride, (side, side))

    def backward(x, kernel, dy):
        return jax.vjp(forward, x, kernel)[1](dy)

    return forward, backward
