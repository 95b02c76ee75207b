"""What goes wrong, and whose fault it is: only what the user can mend becomes a sentence."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(ValueError):
    """Something the user can mend: a value, a file, a folder.

    The message names it, says what was expected and what to do.  Programs show it as one sentence,
    without a traceback; every other error is ours and keeps its traceback.
    """


class RunStoppedError(UserError):
    """Training cannot go on; the message says why, and what to do."""


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Print a `UserError` as one sentence and leave with exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
