"""Files written whole, and names that every output can show."""

import errno
import functools
import hashlib
import os
import pathlib
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

try:
    import fcntl
except ImportError:  # Windows: what a killed program left stays
    fcntl = None

# What file systems answer that cannot wait for the disk.
_NO_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_TEMPORARY = re.compile(r"\.\d+\.[0-9a-f]{16}\.partial(\..*)?", re.DOTALL)


@contextmanager
def replacing(path: pathlib.Path, *, replaces: bool = True) -> Iterator[pathlib.Path]:
    """Yield a name to write to, which then becomes `path`; it is removed if anything fails.

    The name is drawn at random, so that two programs may write the same file at once.  What was
    written is on the disk before the file has its name, so that not even a power failure leaves
    half of it.  The first write to a folder removes what killed programs left there.

    Args:
      path: where to; missing folders are made.
      replaces: whether a file that is there goes, also one that came while this one was written.

    Raises:
      FileExistsError: a file is there and shall stay; file systems without hard links may miss one
        that comes at the same moment.
    """
    give_name = os.replace if replaces else _name_newly
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path.parent)
    name = f".{os.getpid()}.{secrets.token_hex(8)}.partial{path.suffix}"
    temporary = path.with_name(name)
    try:
        with _claimed(temporary) as file:
            yield temporary
            _flush(file)
            if fcntl is not None:
                give_name(temporary, path)
        if fcntl is None:  # Windows renames no open file
            give_name(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def ignores_case(folder: pathlib.Path) -> bool:
    """Tell whether names that differ by case alone are one there, as on disks of macOS and Windows.

    Args:
      folder: a file is made there for a moment; where it is missing, in the one it would lie in.
    """
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".case_") as file:
            return os.path.exists(there / os.path.basename(file.name).upper())
    except OSError:  # who writes the folder's files will say so
        return False


def stays_inside(path: pathlib.Path, folder: pathlib.Path) -> bool:
    """Tell whether a file written to a path lies in a folder: no `..` and no link leads out.

    A path that is a link itself is replaced by what is written, not followed.
    """
    return path.parent.resolve().is_relative_to(folder.resolve())


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file whole: under another name, then renamed.

    A file's name may hold bytes that are no text; they are written as escapes.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def file_sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of any file as it is, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(text: object, encoding: str | None = None) -> str:
    """Replace what an output cannot show, such as file names that are no text, by escapes.

    Args:
      text: what is to be shown.
      encoding: of the output, UTF-8 if not known.
    """
    encoding = encoding or "utf-8"
    return str(text).encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def _claimed(temporary: pathlib.Path) -> Iterator[int]:
    """Make a file and hold its lock: it ends with this process, however that ends."""
    file = _locked_new(temporary)
    try:
        yield file
    finally:
        os.close(file)


def _locked_new(temporary: pathlib.Path) -> int:
    """Make and lock a file; anew where another program took it for left over in between."""
    while True:
        file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        _lock(file, waits=True)
        if os.fstat(file).st_nlink or fcntl is None:
            return file
        os.close(file)


def _name_newly(temporary: pathlib.Path, path: pathlib.Path) -> None:
    """Give a file its name unless another one has it; a link that leads nowhere is replaced."""
    try:
        os.link(temporary, path)
    except OSError as error:  # there is one, or the file system knows no hard links
        if os.path.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.replace(temporary, path)
    else:
        temporary.unlink()


def _flush(file: int) -> None:
    """Wait until what was written to an open file is on the disk."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise


def _lock(file: int, *, waits: bool = False) -> bool:
    """Lock an open file, unless somebody else has or after waiting; say whether that worked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody has, or the file system knows no locks
        return False
    return True


@functools.lru_cache(maxsize=1024)
def _remove_left_over(folder: pathlib.Path) -> None:
    """Remove temporary files whose writers are gone: nobody holds their locks."""
    for entry in os.scandir(folder):
        if _TEMPORARY.fullmatch(entry.name):
            with suppress(OSError):  # gone meanwhile, or another user's
                file = os.open(entry.path, os.O_RDWR)
                try:
                    if _lock(file):
                        os.unlink(entry.path)
                finally:
                    os.close(file)
