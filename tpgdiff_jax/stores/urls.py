"""Addresses in object stores: which are known, what opens them, what goes wrong with them."""

import contextlib
import errno
import functools
import importlib.util
import os
import re
from collections.abc import Iterator

import fsspec

from tpgdiff_jax.reporting.errors import UserError, one_line

# Scheme -> the package that fsspec needs for it; memory:// lives in one process, for tests.
STORES = {"s3": "s3fs", "gs": "gcsfs", "memory": ""}
EXPECTED = "s3://BUCKET/NAME or gs://BUCKET/NAME"
# One slash is enough: pathlib makes one of two.
_KNOWN = re.compile(rf"({'|'.join(STORES)}):/+(.*)", re.DOTALL)
_FOREIGN = re.compile(r"([A-Za-z][\w+.-]*)://")
# Packages whose errors are the store's: refused, out of reach, no such bucket.
_OF_STORES = ("aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "s3fs")
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)


class StoreError(UserError):
    """A store refuses, or cannot be reached."""


class NothingThereError(StoreError):
    """An address at which nothing lies."""


def is_url(path: str | os.PathLike) -> bool:
    """Tell whether a path is an address in a store."""
    return _KNOWN.match(os.fspath(path)) is not None


def normal(path: str | os.PathLike) -> str:
    """Return an address as scheme://bucket/name, without slashes at its end."""
    scheme, rest = _KNOWN.fullmatch(os.fspath(path)).groups()
    return f"{scheme}://{rest.rstrip('/')}"


def named(path: str | os.PathLike) -> str:
    """Return a path as text: an address as `normal` writes it, a local path as it is."""
    return normal(path) if is_url(path) else os.fspath(path)


def split(url: str) -> tuple[str, str]:
    """Return (scheme, bucket/name) of an address."""
    scheme, _, rest = normal(url).partition("://")
    return scheme, rest


def join(base: str, name: str) -> str:
    """Return the address of a name below another address; "" is that one itself."""
    return f"{normal(base)}/{name}" if name else normal(base)


def check(path: str | os.PathLike, called: str = "") -> None:
    """Refuse an address that no program here could use; local paths pass, no server is asked.

    Args:
      path: what was typed.
      called: what stands before it in messages, such as "--input=".

    Raises:
      UserError: an unknown scheme, no bucket, or a package that is missing; says which.
    """
    text = os.fspath(path)
    if not is_url(text):
        if foreign := _FOREIGN.match(text):
            raise UserError(
                f"{called}{text}: {foreign[1]}:// is no store that can be used here; expected a "
                f"local path, {EXPECTED}."
            )
        return
    scheme, rest = split(text)
    if not rest:
        raise UserError(f"{called}{text} names no bucket; expected {EXPECTED}.")
    package = STORES[scheme]
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"{called}{text} needs the package {package}, which is not installed: "
            f"pip install 'tpgdiff_jax[{scheme}]'."
        )


def file_system(url: str) -> fsspec.AbstractFileSystem:
    """Return what reads and writes the store of an address.

    Raises:
      UserError: as `check`.
    """
    check(url)
    return _opened(split(url)[0])


@functools.cache
def _opened(scheme: str) -> fsspec.AbstractFileSystem:
    # Other programs write there, too: what was listed once may be wrong soon.
    return fsspec.filesystem(scheme, use_listings_cache=False)


def key_of(url: str) -> str:
    """Return an address as its file system names it."""
    return file_system(url)._strip_protocol(normal(url))


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what a store answers instead of doing its work into one sentence.

    Raises:
      NothingThereError: no such bucket or object.
      StoreError: it refuses, or cannot be reached.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise NothingThereError(f"{url}: {_said(error)}; check the bucket and the name.") from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE:
            raise UserError(f"{url} cannot be copied to this machine: {_said(error)}.") from error
        is_of_store = type(error).__module__.partition(".")[0] in _OF_STORES
        if not (is_of_store or isinstance(error, OSError)):
            raise
        raise StoreError(
            f"{url} cannot be used: {_said(error)}. Check the credentials, the endpoint and the "
            "network."
        ) from error


@contextlib.contextmanager
def as_disk() -> Iterator[None]:
    """Turn a refusal of a store into an OSError, as a disk at fault raises."""
    try:
        yield
    except StoreError as error:
        raise OSError(errno.EIO, str(error)) from error


def _said(error: Exception) -> str:
    return one_line(error).rstrip(".")
