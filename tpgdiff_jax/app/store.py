"""Visitors' files: names nobody can guess, removed with their visitor or after an hour."""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Collection, Iterator

from absl import logging

from tpgdiff_jax.reporting.errors import UserError

PICTURE, RESULT = "picture", "result"


@dataclasses.dataclass(frozen=True)
class Held:
    """A file of a visitor.

    Attributes:
      path: where it lies.
      name: what it is called where it is shown or saved.
      session: whose it is.
      kind: `PICTURE` or `RESULT`.
      since: when it came, seconds of `time.monotonic`.
      upload: where the web server had laid it; None for what was made here.
    """

    path: pathlib.Path
    name: str
    session: str
    kind: str
    since: float
    upload: pathlib.Path | None = None

    @property
    def token(self) -> str:
        """The name by which its visitor asks for it."""
        return self.path.parent.name


class Store:
    """Holds files in a folder; safe for threads.

    Attributes:
      uploads: where the web server lays what comes in, before `take`.
    """

    def __init__(self, root: pathlib.Path, seconds: float, stalled_seconds: float | None = None):
        """Make the folders.

        Args:
          root: a folder of this process alone.
          seconds: after which a file is removed.
          stalled_seconds: after which an upload is removed that is not whole and does not grow;
            by default as others.
        """
        self._root, self.uploads, self._kept = root, root / "uploads", root / "kept"
        self._make_folders()
        self._seconds = seconds
        self._stalled_seconds = seconds if stalled_seconds is None else stalled_seconds
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()

    def take(self, session: str, path: str | os.PathLike, name: str) -> str:
        """Take an upload over from the web server.

        The upload itself stays as long as what was taken: the web server names it by its content,
        so others who send the same file have theirs in the same place.

        Args:
          session: whose it is.
          path: where the web server says it lies; not believed.
          name: as the visitor calls it; only its last part counts.

        Returns:
          its token.

        Raises:
          UserError: it is no file of the folder for uploads, or cannot be kept.
        """
        name = plain_name(name)
        given = pathlib.Path(path)
        inside = given.parent.resolve().is_relative_to(self.uploads.resolve())
        if not inside or not _is_plain_file(given):
            raise UserError(f"{name}: no upload of this page; choose the picture anew.")
        with self._placed(name) as target:
            _link(given, target)
        return self._keep(target, name, session, PICTURE, given)

    def put(self, session: str, data: bytes, name: str, kind: str = PICTURE) -> str:
        """Keep what was made for a visitor.

        Args:
          session: whose it is.
          data: the file.
          name: what it is called.
          kind: `PICTURE` or `RESULT`.

        Returns:
          its token.

        Raises:
          UserError: it cannot be kept.
        """
        name = plain_name(name)
        with self._placed(name) as target:
            target.write_bytes(data)
        return self._keep(target, name, session, kind)

    def find(self, token: str) -> Held | None:
        """Return a file, if it is still there."""
        with self._lock:
            return self._held.get(token)

    def drop(self, token: str) -> None:
        """Remove one file."""
        self._remove(lambda held: held.token == token)

    def keep_only(self, session: str, kind: str, tokens: Collection[str]) -> None:
        """Remove a visitor's files of a kind, but for some."""
        former = (session, kind)
        self._remove(lambda held: (held.session, held.kind) == former and held.token not in tokens)

    def close(self, session: str) -> None:
        """Remove every file of a visitor."""
        self._remove(lambda held: held.session == session)

    def clear(self) -> None:
        """Remove every file."""
        self._remove(lambda held: True)
        self._make_folders()
        shutil.rmtree(self.uploads)
        self._make_folders()

    def sweep(self) -> None:
        """Remove what is too old, also uploads that nobody took over."""
        self._make_folders()
        now = time.monotonic()
        self._remove(lambda held: now - held.since > self._seconds)
        for path in sorted(self.uploads.glob("**/*"), reverse=True):  # files before their folder
            is_folder = path.is_dir() and not path.is_symlink()
            # The web server moves an upload into a folder of its own once it is whole.
            is_part = path.parent == self.uploads and not is_folder
            seconds = self._stalled_seconds if is_part else self._seconds
            if path.lstat().st_mtime < time.time() - seconds:
                path.rmdir() if is_folder else path.unlink()

    def held_bytes(self) -> int:
        """Return how many bytes all visitors' files have, also those that are not whole yet."""
        found = (path for root in (self.uploads, self._kept) for path in root.glob("**/*"))
        # An upload and what was taken of it are one file with two names.
        return sum(dict(size for path in found for size in _sizes(path)).values())

    def _make_folders(self) -> None:
        """Make the folders; who cleans the machine's temporary files may have removed them."""
        for folder in (self._root, self.uploads, self._kept):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _placed(self, name: str) -> Iterator[pathlib.Path]:
        """Yield where a file is to be made; what is not whole is removed.

        Raises:
          UserError: it cannot be made.
        """
        self._make_folders()
        folder = self._kept / secrets.token_urlsafe(24)
        try:
            folder.mkdir(mode=0o700)
            yield folder / name
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            logging.exception("%s: a visitor's file cannot be kept", folder)
            raise UserError(
                f"{name}: the machine of this page cannot keep it ({error.strerror or error}); "
                "try again later, once there is room on its disk."
            ) from error

    def _keep(
        self,
        path: pathlib.Path,
        name: str,
        session: str,
        kind: str,
        upload: pathlib.Path | None = None,
    ) -> str:
        held = Held(path, name, session, kind, time.monotonic(), upload)
        with self._lock:
            self._held[held.token] = held
        return held.token

    def _remove(self, unwanted) -> None:
        with self._lock:
            tokens = [token for token, held in self._held.items() if unwanted(held)]
            removed = [self._held.pop(token) for token in tokens]
        for held in removed:
            _remove_upload(held)
            shutil.rmtree(held.path.parent, ignore_errors=True)


def plain_name(name: str) -> str:
    """Return the last part of a name, without what no file system or header takes."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(c for c in last if c.isprintable() and c not in '<>:"|?*')
    stem, suffix = os.path.splitext(kept.strip().lstrip("."))
    return (stem.encode()[:100].decode(errors="ignore") or "picture") + suffix[:12]


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    """Give a file a second name, or copy it where the file system knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _remove_upload(held: Held) -> None:
    """Remove the upload a file was taken from, unless the same has been sent anew."""
    with contextlib.suppress(OSError):  # it went meanwhile
        if held.upload is not None and held.upload.samefile(held.path):
            held.upload.unlink()


def _sizes(path: pathlib.Path) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield what tells a file from others, whatever its name, and its bytes."""
    with contextlib.suppress(OSError):  # it went meanwhile
        status = path.lstat()
        yield (status.st_dev, status.st_ino), status.st_size


def _is_plain_file(path: pathlib.Path) -> bool:
    """Tell whether a path is a file itself, no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
