"""What goes wrong: whose fault it is, and how it is told."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Something the user can mend; shown as one sentence, without a traceback."""


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Mark ValueErrors raised inside as the user's to mend: wrong values, folders, files."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Print a `UserError` as one sentence and leave with exit code 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


class RunStoppedError(Exception):
    """Training cannot go on; the message says why, and what to do."""
