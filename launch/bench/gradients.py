"""Both forms of the UNet's weight gradients, ours against XLA's own, at the UNet's sizes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from launch.bench.measure import Program
from tpgdiff_jax.backbones import xla_convolution as convolution

# (batch, side in pixels, input channels, output channels)
SHAPES = (
    (1, 256, 64, 64),
    (1, 256, 128, 64),
    (1, 128, 192, 128),
    (1, 64, 256, 256),
    (1, 32, 512, 512),
    (8, 64, 16, 16),
    (8, 64, 64, 64),
)


def bench_gradients(
    dtype: str, repeats: int, shapes: Sequence[tuple[int, int, int, int]] = SHAPES
) -> list[dict[str, Any]]:
    """Compare the forms; a row for each shape and form, with its GFLOP/s.

    Args:
      dtype: of inputs and gradients.
      repeats: counted runs of each.
      shapes: as `SHAPES`.
    """
    rows = []
    for batch, size, channels, features in shapes:
        keys = jax.random.split(jax.random.key(0))
        x, dy = (
            jax.random.normal(key, (batch, size, size, width), jnp.dtype(dtype))
            for key, width in zip(keys, (channels, features), strict=True)
        )
        for name, function, taps in (
            ("3x3 XLA", convolution.native_kernel_gradient, 9),
            ("3x3 blocked", convolution.blocked_kernel_gradient, 9),
            ("1x1 XLA", convolution.native_matrix_gradient, 1),
            ("1x1 merged", convolution.merged_matrix_gradient, 1),
        ):
            timing, _ = Program(function, (x, dy)).time((x, dy), repeats)
            work = 2 * taps * batch * size**2 * channels * features
            row = {"what": name, "dtype": dtype, "batch": batch, "size": f"{size}x{size}"}
            row |= {"channels": f"{channels} -> {features}", **timing.row()}
            rows.append(row | {"GFLOP/s": round(work / timing.median / 1e9)})
    return rows
