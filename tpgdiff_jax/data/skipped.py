"""Which files were skipped and why, gathered from all threads and worker processes."""

import contextlib
import fcntl
import json
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import IO

from absl import logging

from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable

_NAMED = 5  # so many files are named in a text


class SkipReport:
    """The bad files of a run, each with one reason.

    Without a path the report lives in this process alone; a pickled copy goes its own way.  With a
    path every copy appends to one file, so that grain's worker processes and the main process share
    it: one JSON object a line, {"file", "reason", "source"}, each line written at once.

    Attributes:
      path: the shared file; None keeps the report in memory.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        """Open a report.

        Args:
          path: file to append to; kept if it exists (see `clear`).  One per machine: appending is
            not safe between machines.
        """
        self.path = None if path is None else pathlib.Path(path)
        self._known: dict[str, tuple[str, str]] = {}  # file -> (reason, source)
        self._logged: set[str] = set()  # by this process
        self._read_bytes = 0  # of the shared file
        self._lock = threading.Lock()

    def add(self, file: str | os.PathLike, reason: str, source: str | os.PathLike = "") -> None:
        """Report a bad file; logs it once per process.

        Args:
          file: its path, or another name that tells it from all others.
          reason: what is wrong with it, in a few words.
          source: the folder or data set it belongs to.
        """
        file, source = str(file), str(source)
        with self._lock:
            self._read_shared()
            if file not in self._known:
                self._known[file] = (reason, source)
                if self.path is not None:
                    self._append({"file": file, "reason": reason, "source": source})
            if file in self._logged:
                return
            self._logged.add(file)
        logging.warning("Skipping %s: %s", printable(file), reason)

    def items(self, source: str | os.PathLike | None = None) -> dict[str, str]:
        """Return file -> reason, sorted by file; with a path, those of all processes.

        Args:
          source: only the files of this folder or data set.
        """
        with self._lock:
            self._read_shared()
            known = sorted(self._known.items())
        return {
            file: reason
            for file, (reason, owner) in known
            if source is None or owner == str(source)
        }

    def clear(self) -> None:
        """Forget everything of earlier runs, also in the file; before workers start.

        The processes of a run on one machine all call this: what one of them, while it lives, has
        written since stays there for all.
        """
        with self._lock:
            self._known.clear()
            self._logged.clear()
            self._read_bytes = 0
            if self.path is not None:
                with _alone(self.path) as is_alone:
                    if is_alone:
                        self.path.unlink(missing_ok=True)

    def summary(self, total: int | None = None) -> str:
        """Say in one line how many files were skipped, and name the first few.

        Args:
          total: files looked at, bad ones included; named first if given.

        Returns:
          e.g. "1 203 photos; 3 skipped: a.png (truncated), ..."
        """
        bad = self.items()
        counted = "" if total is None else f"{_grouped(total)} photos; "
        if not bad:
            return f"{counted}none skipped"
        return f"{counted}{_grouped(len(bad))} skipped: {self.describe(bad)}"

    def check(self, total: int, max_share: float) -> None:
        """Stop when too many files are bad: the folder is probably not what was meant.

        Args:
          total: files looked at, bad ones included.
          max_share: largest tolerable share of bad files, from 0 to 1.

        Raises:
          UserError: more than that share is bad.
        """
        bad = self.items()
        if len(bad) > max_share * total:
            raise UserError(
                f"{_grouped(len(bad))} of {_grouped(total)} files are unusable, more than "
                f"data.max_bad_share={max_share:g} allows: {self.describe(bad)}.  Repair or "
                "remove them, or raise data.max_bad_share."
            )

    def describe(self, bad: dict[str, str]) -> str:
        """Name the first few of some reported files, each with its reason.

        Args:
          bad: file -> reason, as `items` returns them.
        """
        named = [
            f"{_shorter(file, self._known[file][1])} ({reason})"
            for file, reason in list(bad.items())[:_NAMED]
        ]
        more = f" and {_grouped(len(bad) - _NAMED)} more" if len(bad) > _NAMED else ""
        return ", ".join(named) + more

    def _append(self, entry: dict[str, str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = (json.dumps(entry) + "\n").encode()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line)  # a single call: lines of several processes do not mix
        finally:
            os.close(file)

    def _read_shared(self) -> None:
        """Take in the complete lines that were appended since the last look."""
        if self.path is None or not self.path.exists():
            return
        with self.path.open("rb") as file:
            if self._read_bytes > os.fstat(file.fileno()).st_size:
                self._read_bytes = 0  # another process has begun a new file
            file.seek(self._read_bytes)
            new = file.read()
        new = new[: new.rfind(b"\n") + 1]  # the last line may still be on its way
        self._read_bytes += len(new)
        for line in new.splitlines():
            try:
                entry = json.loads(line)
                self._known.setdefault(entry["file"], (entry["reason"], entry["source"]))
            except (ValueError, KeyError, TypeError):
                logging.warning("%s holds a line that is no report: %r", self.path, line[:100])

    def __getstate__(self):
        with self._lock:
            return {"path": self.path, "_known": {} if self.path else dict(self._known)}

    def __setstate__(self, state):
        self.__dict__.update(state, _logged=set(), _read_bytes=0, _lock=threading.Lock())


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[bool]:
    """Tell whether no other process that lives has cleared a report, and note that this one has.

    Every process that clears holds a shared lock on a file beside the report until it ends; who
    gets it for itself alone is the first.
    """
    key = str(path.absolute())
    if key not in _held:
        path.parent.mkdir(parents=True, exist_ok=True)
        _held[key] = path.with_name(f".{path.name}.lock").open("a")
    try:
        fcntl.flock(_held[key], fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_alone = True
    except BlockingIOError:
        is_alone = False
    except OSError as error:  # a file system without locks
        logging.warning("%s cannot be locked (%s).", path, error.strerror)
        yield True
        return
    try:
        yield is_alone
    finally:
        fcntl.flock(_held[key], fcntl.LOCK_SH)  # waits while another one clears


_held: dict[str, IO[str]] = {}  # report -> its lock, held until this process ends


def _shorter(file: str, source: str) -> str:
    """Return a file's name relative to its source, if it lies in there."""
    return file.removeprefix(source.rstrip("/") + "/") if source else file


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")
