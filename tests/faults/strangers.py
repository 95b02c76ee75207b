"""Values and settings that no check awaits, drawn for fuzzing."""

import math
import random
from typing import Any

import numpy as np

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**20, 2**31, 2**32, 2**63, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.0, -1.5, 1e308, 1e-320, math.inf, -math.inf, math.nan, 1j),
    *("", "a", "noise", "five", "float32", "a" * 5000, "\0", "\udce9", "1", "..", "*", "("),
    *(b"x", (), [], {}, set(), frozenset([1]), object(), int, len, range(3)),
    *(np.float32(1), np.int64(3), np.zeros(3), np.array("a")),
    *(("noise",), ("noise", "noise"), (1, 2), (2, 1), (0.1, 0.9), (1e308, 1e308), (None,), ((),)),
    *((("a", "fsdp"),), (("(", "fsdp"),), (("a", "fsdp", -1),), ({"name": "x", "folder": "y"},)),
)
JSON: tuple[Any, ...] = (
    *(None, True, 0, 1, 2, 3, 7, 64, -1, 2**20, 2**70, 1.5, math.inf, math.nan),
    *("", "x", "gelu", "noise", "float32", "..", [], [1, 2], [[]], {}, {"a": 1}),
)


def value(rng: random.Random, depth: int = 0) -> Any:
    """Return any value an experiment file could put anywhere."""
    chance = rng.random()
    if chance < 0.6 or depth > 3:
        return rng.choice(ODD)
    if chance < 0.7:
        return rng.choice((rng.randrange(-10, 100), rng.uniform(-2, 3)))
    several = [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if chance < 0.9:
        return tuple(several)
    return several if chance < 0.95 else {rng.choice(("name", "folder", "a", 1)): several}


def changed(rng: random.Random, data: Any) -> Any:
    """Return JSON data of which one part is another, missing or new."""
    if isinstance(data, dict) and data and rng.random() < 0.93:
        key, chance = rng.choice(list(data)), rng.random()
        if chance < 0.1:
            return {k: v for k, v in data.items() if k != key}
        if chance < 0.15:
            return data | {rng.choice(("x", "a/b", f"{key}/x", "")): rng.choice(JSON)}
        return data | {key: changed(rng, data[key])}
    if isinstance(data, list) and data and rng.random() < 0.6:
        at = rng.randrange(len(data))
        return [*data[:at], changed(rng, data[at]), *data[at + 1 :]]
    return rng.choice(JSON)
