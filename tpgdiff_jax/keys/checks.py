"""What one value of the configuration may be: a test, and the words that say so.

The words complete the sentence "expected ..." of an error, and fill a column of the documentation.
Nothing here needs JAX, so that a mistyped value costs no import of it.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection
from typing import Any


@dataclasses.dataclass(frozen=True)
class Check:
    """What a value may be.

    Attributes:
      fits: takes any value whatever, and tells whether it may stand here.
      words: what is expected, in the singular: "a whole number of 1 or more".
      plural: the same of several: "whole numbers of 1 or more".
    """

    fits: Callable[[Any], bool]
    words: str
    plural: str = ""


# A check that lacks something only the room knows that acts on the key: its choices, or a limit.
Awaiting = Callable[[Any], Check]


def whole(least: int, most: int | None = None, *, multiple: int = 1) -> Check:
    """Return the check of a whole number in a range; True and False are none."""

    def fits(value: Any) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return least <= value <= (value if most is None else most) and value % multiple == 0

    scope = f" of {least} or more" if most is None else f" from {least} to {most}"
    scope += f", a multiple of {multiple}" if multiple > 1 else ""
    return Check(fits, f"a whole number{scope}", f"whole numbers{scope}")


def number(
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Check:
    """Return the check of a finite number in a range."""

    def fits(value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if not _is_finite(value):
            return False
        is_large = (least is None or value >= least) and (above is None or value > above)
        return is_large and (most is None or value <= most) and (below is None or value < below)

    if least is not None and most is not None:
        scope = f" from {least:g} to {most:g}"
    else:
        limits = (f"of {least:g} or more" if least is not None else "",)
        limits += (f"above {above:g}" if above is not None else "",)
        limits += (f"at most {most:g}" if most is not None else "",)
        limits += (f"below {below:g}" if below is not None else "",)
        scope = " " + ", ".join(filter(None, limits)) if any(limits) else ""
    return Check(fits, f"a finite number{scope}", f"finite numbers{scope}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def share() -> Check:
    """Return the check of a part of a whole."""
    return number(least=0, most=1)


def flag() -> Check:
    """Return the check of a truth value; 0 and 1 are none."""
    return Check(lambda value: isinstance(value, bool), "True or False")


def text() -> Check:
    """Return the check of text, which may be empty."""
    return Check(lambda value: isinstance(value, str), "text", "texts")


def one_of(choices: Collection[str]) -> Check:
    """Return the check of one name out of several."""

    def fits(value: Any) -> bool:
        return isinstance(value, str) and value in choices

    names = ", ".join(choice or "''" for choice in choices)
    return Check(fits, f"one of {names}", f"names out of {names}")


def some_of(choices: Collection[str]) -> Check:
    """Return the check of one or several names."""
    return tuple_of(one_of(choices), least=1)


def any_of(choices: Collection[str]) -> Check:
    """Return the check of names that may be none at all."""
    return tuple_of(one_of(choices))


def tuple_of(each: Check, *, least: int = 0, rising: bool = False) -> Check:
    """Return the check of a tuple of like values.

    Args:
      each: what each of them may be.
      least: so many there are at least.
      rising: each is larger than the one before it.
    """

    def fits(value: Any) -> bool:
        if not isinstance(value, tuple | list) or len(value) < least:
            return False
        if not all(map(each.fits, value)):
            return False
        return not rising or all(a < b for a, b in itertools.pairwise(value))

    words = f"a {'non-empty ' if least else ''}tuple of {each.plural}"
    return Check(fits, words + (", each larger than the one before" if rising else ""))


def pair_of(each: Check, *, may_lack: bool = False) -> Check:
    """Return the check of a least and a most.

    Args:
      each: what both may be.
      may_lack: whether () may stand there as well.
    """

    def fits(value: Any) -> bool:
        if not isinstance(value, tuple | list):
            return False
        if len(value) == 0:
            return may_lack
        return len(value) == 2 and all(map(each.fits, value)) and value[0] <= value[1]

    words = f"a pair (least, most) of {each.plural}"
    return Check(fits, f"() or {words}" if may_lack else words)
