"""JSON that every reader takes: what it has no number for is written as text."""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(data: Any, indent: int | None = None) -> str:
    """Return data as JSON text; infinite values and NaN become "inf", "-inf" and "nan".

    JSON has no such numbers, and many readers refuse a file that holds `Infinity` or `NaN`.
    Python's `float` reads the texts back.

    Args:
      data: what `json.dumps` takes.
      indent: as for `json.dumps`.
    """
    return json.dumps(_plain(data), indent=indent, allow_nan=False)


def _plain(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return str(float(data))
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list | tuple) else data
