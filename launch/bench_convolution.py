"""Measure convolutions and products: GFLOP/s of each shape through oneDNN and XLA, in turn.

    python launch/bench_convolution.py [--dtype=float32] [--repeats=10]

The shapes are those of the full-width UNet at 256x256 and of small ones in batches.  Backward is
both gradients.  Ratios within one run mean more than figures: machines are noisy.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import tabulate
from absl import app, flags

from tpgdiff_jax import native
from tpgdiff_jax.models.convolution import convolve, pointwise

_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "Of the images.")
_REPEATS = flags.DEFINE_integer("repeats", 10, "Counted runs of each; the best one is shown.")

# Side of the kernel, stride, channels, features, side of the images, batch.
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
WAYS = ("onednn", "xla")


def operands(shape: tuple[int, ...], dtype: jnp.dtype) -> tuple[jax.Array, ...]:
    """Draw x, kernel and dy of a shape."""
    size, stride, channels, features, side, batch = shape
    rng = np.random.default_rng(0)
    kernel = (channels, features) if size == 1 else (size, size, channels, features)
    sizes = ((batch, side, side, channels), kernel, (batch, *(side // stride,) * 2, features))
    x, kernel, dy = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in sizes)
    return x.astype(dtype), kernel, dy.astype(dtype)


def programs(shape: tuple[int, ...], arrays: tuple[jax.Array, ...], way: str):
    """Compile forward and backward of a shape, computed one way."""
    size, stride = shape[:2]
    side = ((size - stride) // 2,) * 2

    def forward(x, kernel):
        if size == 1:
            return pointwise(x, kernel)
        return convolve(x, kernel, None, stride, (side, side))

    def backward(x, kernel, dy):
        return jax.vjp(forward, x, kernel)[1](dy)

    native.choose(way)
    return (
        jax.jit(forward).lower(*arrays[:2]).compile(),
        jax.jit(backward).lower(*arrays).compile(),
    )


def best_seconds(functions: dict, repeats: int) -> dict:
    """Return the shortest time of each function; they take turns, after one run that warms up."""
    times = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - started)
    return {name: min(taken[1:]) for name, taken in times.items()}


def measure(shape: tuple[int, ...], dtype: jnp.dtype, repeats: int) -> dict[str, str]:
    """Return a row of the table."""
    arrays = operands(shape, dtype)
    functions = {}
    for way in WAYS:
        forward, backward = programs(shape, arrays, way)
        functions["forward", way] = lambda forward=forward: forward(*arrays[:2])
        functions["backward", way] = lambda backward=backward: backward(*arrays)
    flop = 2 * shape[0] ** 2 * shape[2] * arrays[2].size
    row = {
        "kernel/stride, channels -> features, side, batch": "{}/{}, {} -> {}, {}, {}".format(*shape)
    }
    for (what, way), seconds in best_seconds(functions, repeats).items():
        row[f"{what} {way}"] = f"{flop * (1 + (what == 'backward')) / seconds / 1e9:.0f}"
    return row


def main(_) -> None:
    """Print the table."""
    dtype = jnp.dtype(_DTYPE.value)
    rows = [measure(shape, dtype, _REPEATS.value) for shape in SHAPES]
    print(f"{dtype.name}, GFLOP/s, {jax.devices()[0].device_kind}")
    print(tabulate.tabulate(rows, headers="keys", tablefmt="github"))


if __name__ == "__main__":
    app.run(main)
