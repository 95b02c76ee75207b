"""Several processes end together: with their work, or because one of them failed."""

import contextlib
import pathlib
import sys
import traceback
from collections.abc import Iterator

from tpgdiff_jax.distributed import peers
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.leaving import leave_now


@contextlib.contextmanager
def ending_together(folder: pathlib.Path) -> Iterator[None]:
    """Tell the other processes how this one ends; alone, errors pass as they are.

    Args:
      folder: where this process describes its end, should it fail.
    """
    peers.keep_crashes_in(folder)
    try:
        yield
    except SystemExit:
        peers.end()
        raise
    except BaseException as error:
        peers.fail(error)
        if not peers.linger() or isinstance(error, KeyboardInterrupt):
            raise
        # Python would wait for JAX's own end, and that for the other processes.
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            leave_now(2)
        traceback.print_exc()
        leave_now(1)
    else:
        peers.end()
