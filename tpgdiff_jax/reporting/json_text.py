"""JSON that every reader takes: what it has no number for is written as text.

And JSON of any kind read: whatever is wrong with it is one kind of error.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.reporting.errors import UserError


def dumps(data: Any, indent: int | None = None) -> str:
    """Return data as JSON text; infinite values and NaN become "inf", "-inf" and "nan".

    JSON has no such numbers, and many readers refuse a file that holds `Infinity` or `NaN`.
    Python's `float` reads the texts back.

    Args:
      data: what `json.dumps` takes.
      indent: as for `json.dumps`.
    """
    return json.dumps(_plain(data), indent=indent, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Read JSON text.

    Raises:
      ValueError: it is none; also where it nests deeper than Python follows.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error


def read_object(path: pathlib.Path, remedy: str) -> dict[str, Any]:
    """Read the JSON object of a file.

    Args:
      path: of the file.
      remedy: what to do where it is damaged; the end of a sentence.

    Raises:
      UserError: the file holds none.
      OSError: it cannot be read.
    """
    try:
        found = loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is no JSON, so it is damaged ({error}); {remedy}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object but a {type(found).__name__}; {remedy}.")
    return found


def _plain(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return str(float(data))
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list | tuple) else data
