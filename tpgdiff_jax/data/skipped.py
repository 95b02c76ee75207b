"""Which files were skipped and why, gathered from all threads and worker processes."""

import os
import pathlib
import threading

import filelock
from absl import logging

from tpgdiff_jax.reporting import json_lines, locks
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
                    json_lines.append(self.path, {"file": file, "reason": reason, "source": source})
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
                _clear(self.path)

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
            entry = json_lines.parsed(line)
            if entry is None or not {"file", "reason", "source"} <= entry.keys():
                logging.warning("%s holds a line that is no report: %r", self.path, line[:100])
                continue
            self._known.setdefault(entry["file"], (entry["reason"], entry["source"]))

    def __getstate__(self):
        with self._lock:
            return {"path": self.path, "_known": {} if self.path else dict(self._known)}

    def __setstate__(self, state):
        self.__dict__.update(state, _logged=set(), _read_bytes=0, _lock=threading.Lock())


def _clear(path: pathlib.Path) -> None:
    """Delete a report, unless another process that lives has deleted an earlier run's already.

    Who deletes it holds a lock beside it until its end.  The others wait while it does so: what
    they write afterwards stays.
    """
    key, name = str(path.absolute()), path.name
    path.parent.mkdir(parents=True, exist_ok=True)
    clearing = locks.take(path.with_name(f".{name}.clearing.lock"), path, wait=True)
    try:
        if key not in _held:
            _held[key] = locks.take(path.with_name(f".{name}.lock"), path)
        path.unlink(missing_ok=True)
    except locks.HeldElsewhereError:
        pass
    finally:
        if clearing is not None:
            clearing.release()


# Report -> its lock, held until this process ends; None where there are no locks.
_held: dict[str, filelock.BaseFileLock | None] = {}


def _shorter(file: str, source: str) -> str:
    """Return a file's name relative to its source, if it lies in there."""
    return file.removeprefix(os.path.join(source, "")) if source else file


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")
