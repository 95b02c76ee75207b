"""Objects written to a store, each of them whole, and folders kept there while they grow."""

import json
import pathlib
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from absl import logging

from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError, one_line
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.stores import urls
from tpgdiff_jax.stores.copies import Stamp, files_below
from tpgdiff_jax.stores.places import own_path

# Sent last and removed first: in a store, a step of a run counts where this file of it is.  Orbax
# writes it into every step.
STEP_MARK = "_CHECKPOINT_METADATA"
_STEP = re.compile(r"((?:.*/)?checkpoints/\d+)/.*", re.DOTALL)
UNFINISHED = ".orbax-checkpoint-tmp"
_LOG = ".jsonl"
_RECORD = ".sent.json"  # in the folder: who wrote it last, and what the store has of its files
_IN_MEMORY = 64 << 20  # bytes; smaller files may grow while they are sent, so they are read first
_THREADS = 8
SECONDS = 30.0  # between two looks at the folder


def put_data(url: str, data: bytes) -> None:
    """Write an object whole; readers see the old one or the new one.

    Raises:
      StoreError: the store refuses, or cannot be reached.
    """
    with urls.reaching(url):
        urls.file_system(url).pipe_file(urls.key_of(url), data)


def put(url: str, data: bytes) -> None:
    """Write an object as `put_data`; raises OSError as a disk at fault would."""
    with urls.as_disk():
        put_data(url, data)


def is_there(url: str) -> bool:
    """Ask a store whether it has an object now; raises OSError as a disk at fault would."""
    with urls.as_disk():
        try:
            with urls.reaching(url):
                return urls.file_system(url).info(urls.key_of(url))["type"] == "file"
        except urls.NothingThereError:
            return False


def put_file(path: pathlib.Path, url: str) -> bool:
    """Write a file as an object.

    Returns:
      whether it was still there.

    Raises:
      StoreError: the store refuses, or cannot be reached.
    """
    try:
        if path.stat().st_size <= _IN_MEMORY:
            put_data(url, path.read_bytes())
        else:
            with urls.reaching(url):
                urls.file_system(url).put_file(str(path), urls.key_of(url))
    except (FileNotFoundError, urls.NothingThereError):
        if path.exists():
            raise
        return False
    return True


def send_folder(folder: pathlib.Path, url: str) -> None:
    """Write every file below a folder as an object; errors as `put_file`."""
    for name in files_below(folder):
        put_file(folder / name, urls.join(url, name))


def complete_steps(names: Iterable[str]) -> set[str]:
    """Leave out, of a run's objects, those of steps that are not all there."""
    names = {name for name in names if UNFINISHED not in name}
    return {n for n in names if not (step := step_of(n)) or f"{step}/{STEP_MARK}" in names}


def read_record(folder: pathlib.Path) -> dict[str, Any]:
    """Return what a folder's `Sender` noted: {"writer": who, "files": name -> stamp}."""
    path = folder / _RECORD
    if not path.is_file():
        return {"writer": None, "files": {}}
    record = json_text.read_object(path, "remove it, then start the same command again")
    return record | {"files": {name: tuple(stamp) for name, stamp in record["files"].items()}}


def write_record(folder: pathlib.Path, writer: str, files: Mapping[str, Stamp]) -> None:
    """Note in a folder who writes it, and what the store has of its files."""
    write_text(folder / _RECORD, json.dumps({"writer": writer, "files": files}))


def unsent(folder: pathlib.Path) -> list[str]:
    """Name the files of a folder that the store has not, or not as they are now."""
    sent = read_record(folder)["files"]
    return sorted(n for n, stamp in _to_send(folder).items() if sent.get(n) != stamp)


class Sender:
    """Keeps the objects below an address like the files of a folder; hidden files stay here.

    Whatever moment the process is killed at, every object is whole; a step of a run counts in the
    store (see `complete_steps`) only while all of it is there; and logs (`.jsonl`) tell of nothing
    that is not there: they are read first and sent last.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        url: str,
        writer: str,
        *,
        removes: bool,
        confirm: Callable[[], None] = lambda: None,
    ):
        """Begin to send, every half minute and at the end.

        Args:
          folder: what is kept; its record says what the store has already.
          url: where.
          writer: who writes it, for the record.
          removes: whether an object goes when its file goes.
          confirm: raises `StoreError` where nothing may be sent any more.
        """
        self._confirm = confirm
        self._lock = threading.Lock()
        self._folder, self._url, self._writer, self._removes = folder, url, writer, removes
        self._sent: dict[str, Stamp] = read_record(folder)["files"]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sending", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once what it is sending is there."""
        self._stopped.set()
        self._thread.join()

    def send(self) -> None:
        """Bring the store up to date.

        Raises:
          StoreError: it refuses, or cannot be reached.
        """
        with self._lock:
            self._send()

    def _send(self) -> None:
        logs = self._read_logs()
        now = _to_send(self._folder)
        new = {name: stamp for name, stamp in now.items() if self._sent.get(name) != stamp}
        if not new and (not self._removes or self._sent.keys() <= now.keys()):
            return
        self._confirm()
        steps = {step for name in new if (step := step_of(name))}
        try:
            # Of steps that are written anew; those that only get more files stay whole.
            anew = {f"{step_of(name)}/{STEP_MARK}" for name in new if name in self._sent}
            self._remove(anew & self._sent.keys())
            self._put({n: new[n] for n in new if not step_of(n) and not n.endswith(_LOG)})
            for step in sorted(steps, key=lambda step: -int(step.rpartition("/")[2])):
                self._put_step(step, {n: now[n] for n in now if step_of(n) == step})
            for name, (stamp, data) in logs.items():
                if name in new:
                    put_data(urls.join(self._url, name), data)
                    self._sent[name] = stamp
            if self._removes:
                gone = self._sent.keys() - now.keys()
                self._remove({name for name in gone if name.endswith(f"/{STEP_MARK}")})
                self._remove({name for name in gone if not name.endswith(f"/{STEP_MARK}")})
        finally:
            write_record(self._folder, self._writer, self._sent)

    def _read_logs(self) -> dict[str, tuple[Stamp, bytes]]:
        """Return name -> (stamp before reading, content) of each log that has grown."""
        return {
            name: (stamp, (self._folder / name).read_bytes())
            for name, stamp in _to_send(self._folder).items()
            if name.endswith(_LOG) and self._sent.get(name) != stamp
        }

    def _run(self) -> None:
        while not self._stopped.wait(SECONDS):
            try:
                self.send()
            except (OSError, UserError) as error:  # the store's, or this machine's full disk
                text = "%s It is tried again; %s has all."
                logging.warning(text, one_line(error), own_path(self._folder))

    def _put_step(self, step: str, files: Mapping[str, Stamp]) -> None:
        """Send what the store lacks of a step, and last the file by which it counts there."""
        mark = f"{step}/{STEP_MARK}"
        self._put({n: s for n, s in files.items() if n != mark and self._sent.get(n) != s})
        if mark in files and all(self._sent.get(n) == s for n, s in files.items() if n != mark):
            if self._sent.get(mark) != files[mark]:
                self._put({mark: files[mark]})
        else:
            text = "%s: %s was removed before all of it was sent; raise config.checkpoint.keep."
            logging.warning(text, self._url, step)

    def _put(self, files: Mapping[str, Stamp]) -> None:
        def send(name: str) -> bool:
            return put_file(self._folder / name, urls.join(self._url, name))

        with ThreadPoolExecutor(_THREADS) as pool:
            for name, is_there in zip(files, pool.map(send, files), strict=True):
                if is_there:
                    self._sent[name] = files[name]

    def _remove(self, names: Collection[str]) -> None:
        for name in names:
            url = urls.join(self._url, name)
            try:
                with urls.reaching(url):
                    urls.file_system(url).rm_file(urls.key_of(url))
            except urls.NothingThereError:  # somebody else has removed it
                pass
            self._sent.pop(name, None)


def _to_send(folder: pathlib.Path) -> dict[str, Stamp]:
    return {n: stamp for n, stamp in files_below(folder).items() if UNFINISHED not in n}


def step_of(name: str) -> str:
    """Return the folder of the step that a file of a run belongs to; "" if it is of none."""
    match = _STEP.fullmatch(name)
    return match[1] if match else ""
