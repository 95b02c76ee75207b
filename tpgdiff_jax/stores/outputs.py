"""Files that a program writes once, at its end: in a folder of this machine first."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores import places, urls
from tpgdiff_jax.stores.copies import files_below, listing
from tpgdiff_jax.stores.sending import put_file
from tpgdiff_jax.user_cache import user_cache


@contextlib.contextmanager
def writing(path: str | os.PathLike, *, replaces: bool = False) -> Iterator[pathlib.Path]:
    """Yield the path to write to; of an address, what is there at the end of the block is sent.

    Args:
      path: a local path, which is yielded as it is, or an address: of a file, beside which others
        may be written, or of a folder.
      replaces: whether objects that are there already are replaced.

    Raises:
      UserError: they are there and not replaced; or the store cannot be used.
    """
    if not urls.is_url(path):
        yield pathlib.Path(path)
        return
    url = urls.normal(path)
    base, _, name = url.rpartition("/")
    if base.endswith("/"):
        raise UserError(f"{url} is a bucket; name a file or folder in it.")
    if not replaces and listing(url):
        raise UserError(f"{url} exists already; choose another name.")
    user_cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=user_cache(), prefix="written_") as folder:
        target = pathlib.Path(folder, name)
        places.remember(pathlib.Path(folder), base)
        yield target
        files = {urls.join(base, name): name for name in files_below(pathlib.Path(folder))}
        for address in files:
            if not replaces and listing(address):
                raise UserError(f"{address} exists already; choose another name.")
        for address, name in files.items():
            put_file(pathlib.Path(folder, name), address)
