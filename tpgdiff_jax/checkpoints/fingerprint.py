"""One number for a set of weights: in descriptions, logs of restored files and benchmark reports.

It is a SHA-256 over names, shapes and values.  Values count as float32, whatever type they are
stored in, so a file and what is loaded from it have the same one.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from tpgdiff_jax.checkpoints.storing import widened


def fingerprint_of(weights: Mapping[str, Any]) -> str:
    """Return the fingerprint of a nested dict of weights, in hexadecimal.

    Of a whole system these are its groups, as published files hold them; see `groups_of`.
    """
    return fingerprint_of_items(sorted(flatten_dict(weights).items(), key=lambda item: item[0]))


def fingerprint_of_items(items: Iterable[tuple[tuple[str, ...], Any]]) -> str:
    """Return the fingerprint of (path, array) pairs that come in the paths' order."""
    digest = hashlib.sha256()
    for key, value in items:
        value = widened(value)
        digest.update(f"{'/'.join(key)} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).view(np.uint8))
    return digest.hexdigest()


def groups_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return a system's weights as the groups of a published file.

    Args:
      variables: {"params", "frozen"}; in `frozen` the cue networks lie below `structure`, which in
        `params` is the structural encoder.
    """
    frozen = dict(variables["frozen"])
    return {**variables["params"], **frozen.pop("structure", {}), **frozen}
