"""Where copies of this machine lie, and which addresses they stand for."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores import urls
from tpgdiff_jax.user_cache import user_cache

# Of this process: local folder or file -> the address it is a copy of.
_COPIES: dict[pathlib.Path, str] = {}


def place(kind: str, url: str) -> pathlib.Path:
    """Return where a copy of an address lies; its path says what it is of.

    Args:
      kind: what it serves; copies of different kinds do not meet.
      url: the address.
    """
    scheme, rest = urls.split(url)
    path = user_cache() / "stores" / kind / scheme / rest
    remember(path, url)
    return path


def remember(path: pathlib.Path, url: str) -> None:
    """Note that a file or folder of this machine stands for an address."""
    _COPIES[path] = urls.normal(url)


def is_copy(path: str | os.PathLike) -> bool:
    """Tell whether a path of this machine stands for an address, or lies in one that does."""
    return with_addresses(os.path.abspath(path)) != os.path.abspath(path)


def shown(path: str | os.PathLike) -> str:
    """Return what a user calls a path: the address it is a copy of, or the absolute path."""
    return urls.normal(path) if urls.is_url(path) else with_addresses(os.path.abspath(path))


def own_path(path: pathlib.Path) -> str:
    """Return the path of a copy in a form that `with_addresses` leaves alone."""
    return f"{path.parent}//{path.name}"


def with_addresses(text: str) -> str:
    """Put addresses in the place of their copies, in any text."""
    for path in sorted(_COPIES, key=lambda path: -len(str(path))):
        text = text.replace(str(path), _COPIES[path])
    return text


@contextlib.contextmanager
def naming_addresses() -> Iterator[None]:
    """Let errors of the user name addresses instead of their copies."""
    try:
        yield
    except UserError as error:
        error.args = tuple(map(with_addresses, map(str, error.args)))
        raise
