"""Several processes share a folder and end together: with their work, or as one has failed."""

import contextlib
import pathlib
import sys
import traceback
from collections.abc import Iterator

from absl.flags import FlagValues

from tpgdiff_jax.commands.flags import default_workdir
from tpgdiff_jax.commands.mode_flags import MODES, chosen_program
from tpgdiff_jax.distributed import peers
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.leaving import leave_now
from tpgdiff_jax.stores.keeping import kept_folder
from tpgdiff_jax.stores.urls import is_url

RESTORED = "restored"  # where --mode=restore writes without --output; it says so at its end


def folder_of(flags: FlagValues) -> pathlib.Path:
    """Return the folder that all processes of a program write to; of an address, its copy here."""
    path = typed_folder(flags)
    return kept_folder(path, chosen_program(flags)) if is_url(path) else pathlib.Path(path)


def typed_folder(flags: FlagValues) -> str | pathlib.Path:
    """Return the folder, or its address, that a program works in."""
    program = chosen_program(flags)
    if program == "restore":
        return flags.output or RESTORED
    if program == "benchmark" and flags.output:
        return flags.output
    if "workdir" in MODES[program].reads:
        return flags.workdir or default_workdir(sys.argv)
    return "."


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
