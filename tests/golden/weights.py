"""Deterministic stand-in weights, so that golden files need to hold no weights.

Every parameter of a PyTorch state dict is filled by the same rule from its key,
its shape and a seed:

    x = numpy.random.default_rng([seed, crc32(key)]).standard_normal(shape, float32)
    norm gains (a 1-D '...weight', or a key that ends in '.g'):   1 + 0.1 x
    other 1-D arrays (biases):                                   0.1 x
    everything else:                              x / sqrt(prod(shape[1:]))

`fill("keys/unet_nf64.json", seed)` gives the whole dict as float32 numpy arrays in
PyTorch's own layout (OIHW convolutions, [out, in] linears).
"""

import json
import math
import pathlib
import zlib

import numpy as np


def weight(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    x = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(
        shape, dtype=np.float32
    )
    if key.endswith(".g") or (len(shape) == 1 and key.endswith("weight")):
        return (1 + 0.1 * x).astype(np.float32)
    if len(shape) <= 1:
        return (0.1 * x).astype(np.float32)
    return (x / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


def fill(keys_json: str | pathlib.Path, seed: int) -> dict[str, np.ndarray]:
    path = pathlib.Path(keys_json)
    if not path.is_absolute():
        path = pathlib.Path(__file__).parent / path
    return {k: weight(k, tuple(s), seed) for k, s in json.loads(path.read_text()).items()}
