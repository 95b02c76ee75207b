"""Copies of objects on this machine: made once, made again where the store's has changed.

A copy's time is that of its object, and its nanoseconds stand for the object's version (its ETag),
so that a look at the file tells whether it is still right.
"""

import datetime
import os
import pathlib
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from absl import logging

from tpgdiff_jax.reporting import locks
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import replacing
from tpgdiff_jax.reporting.progress import Progress
from tpgdiff_jax.stores import urls
from tpgdiff_jax.stores.places import place
from tpgdiff_jax.user_cache import user_cache

# Names below an address -> those that are copied.
Wanted = Callable[[Iterable[str]], Iterable[str]]
Stamp = tuple[int, int]  # bytes, nanoseconds
OWN = ".tpgdiff_jax"  # folder in a store: what programs say of themselves there; never copied
_THREADS = 8  # each object waits for the network
_TRIES = 3  # objects may vanish between the listing and the copy
_NAMED = 3


def local(path: str | os.PathLike, wanted: Wanted = list, kind: str = "read") -> pathlib.Path:
    """Return a path that this machine can read: itself, or the copy of an address.

    Args:
      path: a local path, or the address of an object or of all objects below it.
      wanted: which of these are copied.
      kind: what calls them; another choice of objects needs a copy of its own.

    Raises:
      NothingThereError: nothing lies at the address.
      StoreError: the store refuses, or cannot be reached.
      UserError: the copy does not fit on the disk, or the package for this store is missing.
    """
    if not urls.is_url(path):
        return pathlib.Path(path)
    url = urls.normal(path)
    target = place(kind, url)
    scheme, rest = urls.split(url)
    bucket = place(kind, f"{scheme}://{rest.partition('/')[0]}")
    lock = bucket.with_name(f".{bucket.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = locks.take(lock, lock)
    except locks.HeldElsewhereError:
        logging.info("Waiting for another program that copies from the bucket of %s.", url)
        held = locks.take(lock, lock, wait=True)
    try:
        copy(url, target, wanted)
    finally:
        if held is not None:
            held.release()
    return target


def listing(url: str) -> dict[str, Stamp]:
    """List the objects at and below an address, as name relative to it -> stamp of its copy.

    The object at the address itself has the name "".  Objects that could be no files are left out
    with a warning: `a` beside `a/b`, and names with empty parts or dots alone.
    """
    with urls.reaching(url):
        found = urls.file_system(url).find(urls.key_of(url), detail=True)
    start = len(urls.key_of(url))
    stamps = {key[start:].removeprefix("/"): stamp_in(info) for key, info in found.items()}
    folders = {str(parent) for name in stamps for parent in pathlib.PurePosixPath(name).parents}
    good, odd = {}, []
    for name, stamp in stamps.items():
        if name and name.endswith("/"):  # made by consoles, to show an empty folder
            continue
        if name in folders or (name and {"", ".", ".."} & set(name.split("/"))):
            odd.append(name)
        else:
            good[name] = stamp
    if odd:
        text = "%s: %d objects are left out, whose names can be no files here: %s"
        logging.warning(text, url, len(odd), ", ".join(sorted(odd)[:_NAMED]))
    return good


def copy(url: str, target: pathlib.Path, wanted: Wanted = list) -> dict[str, Stamp]:
    """Make a file or folder the copy of an address; what is right already is left alone.

    Hidden files in the folder stay; all else that the store does not have is removed.

    Args:
      url: of an object or of what lies below it.
      target: the copy.
      wanted: which objects below it.

    Returns:
      the names below the address and their stamps; {"": stamp} for an object.

    Raises:
      UserError: as `local`.
    """
    for attempt in range(_TRIES):
        stamps = listing(url)
        if not stamps:
            raise urls.NothingThereError(f"{url}: nothing lies there; check bucket and name.")
        names = [name for name in stamps if not name.startswith(f"{OWN}/")]
        chosen = {name: stamps[name] for name in ([""] if "" in stamps else wanted(names))}
        try:
            _copy(url, target, chosen)
        except urls.NothingThereError:
            if attempt == _TRIES - 1:
                raise
            continue
        return chosen
    raise AssertionError("unreachable")


def stamp_of(path: pathlib.Path) -> Stamp | None:
    """Return the stamp of a file, None where there is none."""
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return about.st_size, about.st_mtime_ns


def files_below(folder: pathlib.Path) -> dict[str, Stamp]:
    """List the files below a folder, without hidden ones: name relative to it -> stamp."""
    found = {}
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = pathlib.Path(base, name)
            if not name.startswith(".") and (stamp := stamp_of(path)):
                found[path.relative_to(folder).as_posix()] = stamp
    return found


def _copy(url: str, target: pathlib.Path, stamps: Mapping[str, Stamp]) -> None:
    _clear(target, stamps)
    missing = {n: stamp for n, stamp in stamps.items() if stamp_of(target / n) != stamp}
    if not missing:
        return
    needed = sum(size for size, _ in missing.values())
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise UserError(
            f"{url}: its copy needs {needed / 2**30:.2f} GiB, and {target.parent} has "
            f"{free / 2**30:.2f} GiB free; name a larger disk by XDG_CACHE_HOME."
        )

    def fetch(item: tuple[str, Stamp]) -> None:
        name, (size, time) = item
        address = urls.join(url, name)
        with replacing(target / name) as temporary:
            with urls.reaching(address):
                urls.file_system(url).get_file(urls.key_of(address), str(temporary))
            if temporary.stat().st_size != size:
                raise urls.NothingThereError(f"{address} changed while it was copied.")
            os.utime(temporary, ns=(time, time))

    logging.info("Copying %d objects (%.1f MiB) of %s.", len(missing), needed / 2**20, url)
    with (
        Progress(len(missing), "copying", unit="object", speaks=True) as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        try:
            for _ in pool.map(fetch, missing.items()):
                bar.advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _clear(target: pathlib.Path, stamps: Mapping[str, Stamp]) -> None:
    """Remove what stands in the way of a copy, and what is no part of it."""
    if "" in stamps:
        if target.is_dir():
            shutil.rmtree(target)
        return
    for parent in (target, *target.parents):  # an object that has become a folder
        if parent.is_relative_to(user_cache()) and parent.is_file():
            parent.unlink()
    for name in files_below(target):
        if name not in stamps:
            (target / name).unlink()
    for base, _, _ in os.walk(target, topdown=False):
        if base != str(target) and not os.listdir(base):
            os.rmdir(base)


def stamp_in(info: Mapping[str, Any]) -> Stamp:
    """Return the stamp of an object, from what its store says of it."""
    times = (info.get(key) for key in ("LastModified", "mtime", "updated", "created"))
    when = next((time for time in times if time is not None), 0)
    if isinstance(when, str):
        when = datetime.datetime.fromisoformat(when)
    seconds = int(when.timestamp() if isinstance(when, datetime.datetime) else when)
    versions = (info.get(key) for key in ("ETag", "etag", "generation", "created"))
    version = str(next((version for version in versions if version), ""))
    return int(info["size"]), seconds * 10**9 + zlib.crc32(version.encode()) % 10**9
