"""What a process leaves behind when it fails beside others, whose output may hide its own."""

import datetime
import pathlib
import shlex
import sys
import traceback

from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import write_text


def crash_file(folder: pathlib.Path, process: int) -> pathlib.Path:
    """Return where a process describes its end."""
    return folder / f"crash_process_{process}.txt"


def write_crash_file(folder: pathlib.Path, process: int, who: str, error: BaseException) -> None:
    """Describe the end of a process: when, who, which command, and the error.

    Where the folder is missing or cannot be written, standard error says so and nothing else
    happens: the error that ends the process matters more.

    Args:
      folder: of the run or the results.
      process: its number.
      who: its number, host and process id, as text.
      error: a `UserError` is told as its sentence, every other one with its traceback.
    """
    if not folder.is_dir():  # a mistyped name shall not be made
        return
    told = f"error: {error}\n"
    if not isinstance(error, UserError):
        told = "".join(traceback.format_exception(error))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    path = crash_file(folder, process)
    try:
        write_text(path, f"{now}\n{who}\n{shlex.join(sys.orig_argv)}\n\n{told}")
    except OSError as failed:
        print(f"{path} cannot be written: {failed.strerror}", file=sys.stderr, flush=True)
