"""What goes wrong, and whose fault it is: only what the user can mend becomes a sentence."""

import contextlib
import errno
import numbers
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

_SHOWN = 60  # characters of a name that is too long


class UserError(ValueError):
    """Something the user can mend: a value, a file, a folder.

    The message names it, says what was expected and what to do.  Programs show it as one sentence,
    without a traceback; every other error is ours and keeps its traceback.
    """


class RunStoppedError(UserError):
    """Training cannot go on; the message says why, and what to do."""


def is_whole(value: Any) -> bool:
    """Tell whether a value is a whole number; True is none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def require_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise UserError unless a value is a whole number of at least so many."""
    if not is_whole(value) or value < least:
        raise UserError(f"{name}={value!r} must be a whole number, at least {least}.")


def require_known(name: str, value: object, known: Iterable[str]) -> None:
    """Raise UserError, with the choices there are, unless a value called `name` is one of them."""
    if value not in known:
        raise UserError(f"{name}={value!r} is unknown; expected one of {', '.join(known)}.")


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line; its type's name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Print a `UserError` as one sentence and leave with exit code 2.

    So it does with a name that no file can have, which any flag may hold and any call may meet.
    """
    try:
        yield
    except UserError as error:
        _leave(str(error))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        name = str(error.filename)
        _leave(f"{name[:_SHOWN]}... ({len(name)} characters): no file can have so long a name.")


def _leave(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
