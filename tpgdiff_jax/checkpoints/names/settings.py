"""Settings and sizes of strangers' files: taken only where they are what they must be."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tpgdiff_jax.keys.checks import Check, tuple_of, whole
from tpgdiff_jax.reporting.errors import UserError

_MOST = 2**24  # of one size of a network


def mapping(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the settings that lie within others; {} where there are none.

    Raises:
      UserError: something else is there.
    """
    found = config.get(name) or {}
    if not isinstance(found, Mapping):
        raise UserError(f"config: {name}={found!r}: expected settings by their names.")
    return found


def whole_number(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Return a setting that is a whole number of 1 or more; raises UserError for another."""
    return setting(config, name, whole(1, _MOST), default)


def whole_numbers(config: Mapping[str, Any], name: str, default: Any, least: int = 1) -> Any:
    """Return a setting that is a tuple of whole numbers; raises UserError for another."""
    return setting(config, name, tuple_of(whole(least, _MOST)), default)


def setting(config: Mapping[str, Any], name: str, check: Check, default: Any = None) -> Any:
    """Return a setting that fits a check, or the default where it is missing or null.

    Raises:
      UserError: naming the setting, its value and what is expected.
    """
    found = config.get(name)
    if found is None:
        return default
    if not check.fits(found):
        raise UserError(f"config: {name}={found!r}: expected {check.words}.")
    return found


def axes(shapes: Mapping[str, tuple[int, ...]], key: str, number: int) -> tuple[int, ...]:
    """Return the shape of an array that is there.

    Args:
      shapes: name -> shape.
      key: of the array.
      number: of axes that it must have.

    Raises:
      UserError: it has another number of axes.
    """
    shape = shapes[key]
    if len(shape) != number:
        raise UserError(f"{key} has the shape {shape}; expected {number} axes.")
    return shape


def count(names: Iterable[str], pattern: str, first: int = 0) -> int:
    """Return how many numbered things a file holds.

    Args:
      names: all names in the file.
      pattern: matches the names' beginning; its first group is the number.
      first: number that they are counted from.

    Raises:
      UserError: a number is left out, so that a file could name a network without end.
    """
    found = {int(match.group(1)) for name in names if (match := re.match(pattern, name))}
    lacking = next((n for n in range(first, first + len(found)) if n not in found), None)
    if lacking is not None:
        raise UserError(
            f"Keys that match {pattern!r} go up to number {max(found)}, but {lacking} is missing."
        )
    return len(found)
