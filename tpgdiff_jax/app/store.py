"""Visitors' files: names nobody can guess, removed with their visitor or after an hour."""

import dataclasses
import os
import pathlib
import secrets
import shutil
import stat
import threading
import time

from tpgdiff_jax.reporting.errors import UserError


@dataclasses.dataclass(frozen=True)
class Held:
    """A file of a visitor.

    Attributes:
      path: where it lies.
      name: what it is called where it is shown or saved.
      session: whose it is.
      since: when it came, seconds of `time.monotonic`.
    """

    path: pathlib.Path
    name: str
    session: str
    since: float


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
        self.uploads, self._kept = root / "uploads", root / "kept"
        for folder in (self.uploads, self._kept):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._seconds = seconds
        self._stalled_seconds = seconds if stalled_seconds is None else stalled_seconds
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()

    def take(self, session: str, path: str | os.PathLike, name: str) -> str:
        """Take an upload over from the web server.

        Args:
          session: whose it is.
          path: where the web server says it lies; not believed.
          name: as the visitor calls it; only its last part counts.

        Returns:
          its token.

        Raises:
          UserError: it is no file of the folder for uploads.
        """
        name = plain_name(name)
        given = pathlib.Path(path)
        inside = given.parent.resolve().is_relative_to(self.uploads.resolve())
        if not inside or not _is_plain_file(given):
            raise UserError(f"{name}: no upload of this page; choose the picture anew.")
        token, target = self._place(name)
        os.replace(given, target)
        self._keep(token, target, name, session)
        return token

    def put(self, session: str, data: bytes, name: str) -> str:
        """Keep what was made for a visitor; returns its token."""
        name = plain_name(name)
        token, target = self._place(name)
        target.write_bytes(data)
        self._keep(token, target, name, session)
        return token

    def find(self, token: str) -> Held | None:
        """Return a file, if it is still there."""
        with self._lock:
            return self._held.get(token)

    def drop(self, token: str) -> None:
        """Remove one file."""
        self._remove(lambda held: held.path.parent.name == token)

    def close(self, session: str) -> None:
        """Remove every file of a visitor."""
        self._remove(lambda held: held.session == session)

    def clear(self) -> None:
        """Remove every file."""
        self._remove(lambda held: True)
        shutil.rmtree(self.uploads)
        self.uploads.mkdir(mode=0o700)

    def sweep(self) -> None:
        """Remove what is too old, also uploads that nobody took over."""
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
        return sum(_size(path) for path in found)

    def _place(self, name: str) -> tuple[str, pathlib.Path]:
        token = secrets.token_urlsafe(24)
        folder = self._kept / token
        folder.mkdir(mode=0o700)
        return token, folder / name

    def _keep(self, token: str, path: pathlib.Path, name: str, session: str) -> None:
        with self._lock:
            self._held[token] = Held(path, name, session, time.monotonic())

    def _remove(self, unwanted) -> None:
        with self._lock:
            tokens = [token for token, held in self._held.items() if unwanted(held)]
            removed = [self._held.pop(token) for token in tokens]
        for held in removed:
            shutil.rmtree(held.path.parent, ignore_errors=True)


def plain_name(name: str) -> str:
    """Return the last part of a name, without what no file system or header takes."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(c for c in last if c.isprintable() and c not in '<>:"|?*')
    stem, suffix = os.path.splitext(kept.strip().lstrip("."))
    return (stem.encode()[:100].decode(errors="ignore") or "picture") + suffix[:12]


def _size(path: pathlib.Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # it went meanwhile
        return 0


def _is_plain_file(path: pathlib.Path) -> bool:
    """Tell whether a path is a file itself, no link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
