"""Work in a copy of a folder of a store that another machine keeps."""

import contextlib
import pathlib
import re
import threading
from collections.abc import Iterator

from absl import logging

from tpgdiff_jax.stores.copies import Stamp, Wanted, files_below, local
from tpgdiff_jax.stores.places import own_path, place
from tpgdiff_jax.stores.sending import SECONDS, put_file, read_record, write_record
from tpgdiff_jax.stores.urls import StoreError, join

_KIND = "followed"


def followed_folder(url: str) -> pathlib.Path:
    """Return the folder of this machine that `following` copies to."""
    return place(_KIND, url)


@contextlib.contextmanager
def following(url: str, wanted: Wanted, own: re.Pattern[str]) -> Iterator[pathlib.Path]:
    """Yield a copy of what the store has; some of what is written there is sent.

    Files of this machine alone are sent as they grow, and at the end.  What a killed program left
    is sent before this begins.  Errors of the store are warnings then: who keeps the folder has the
    rest.

    Args:
      url: the folder's address.
      wanted: which objects are copied, once.
      own: matches the names of files that each machine writes for itself.

    Raises:
      StoreError: nothing can be copied.
    """
    folder = followed_folder(url)
    folder.mkdir(parents=True, exist_ok=True)  # of a new run
    _send(url, folder, own)
    local(url, wanted, _KIND)
    write_record(folder, "", _matching(folder, own))
    ended = threading.Event()

    def run() -> None:
        is_last = False
        while not is_last:
            is_last = ended.wait(SECONDS)
            try:
                _send(url, folder, own)
            except StoreError as error:
                text = "%s What this machine alone knows is in %s; its next start there sends it."
                logging.warning(text, error, own_path(folder))

    thread = threading.Thread(target=run, name="sending", daemon=True)
    thread.start()
    try:
        yield folder
    finally:
        ended.set()
        thread.join()


def _matching(folder: pathlib.Path, own: re.Pattern[str]) -> dict[str, Stamp]:
    return {name: stamp for name, stamp in files_below(folder).items() if own.fullmatch(name)}


def _send(url: str, folder: pathlib.Path, own: re.Pattern[str]) -> None:
    """Send what was written here since the folder was copied; its record says what that was."""
    known = read_record(folder)["files"]
    for name, stamp in _matching(folder, own).items():
        if known.get(name) != stamp:
            put_file(folder / name, join(url, name))
            known[name] = stamp
            write_record(folder, "", known)
