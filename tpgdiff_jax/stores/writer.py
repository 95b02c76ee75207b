"""One writer at a time: what a folder in a store says of the program that writes it.

Stores have no locks.  The writer leaves a sign of life in an object every few seconds; whoever
wants to write, too, is refused while the sign changes.  No clocks are compared.
"""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from absl import logging

from tpgdiff_jax.stores import urls
from tpgdiff_jax.stores.copies import OWN
from tpgdiff_jax.stores.sending import put_data

_BEAT = 15.0  # seconds between two signs of life
_PATIENCE = 60.0  # seconds without one: the writer was killed
_SETTLE = 2.0  # seconds in which two that begin at once have both written


class WriterError(urls.StoreError):
    """Another program writes there."""


class Writer:
    """This program as the only one that writes below an address."""

    def __init__(self, url: str, name: str, known: str | None, lost: Callable[[], None]):
        """Become the writer.

        Args:
          url: the folder's address.
          name: of the part of it that is written; parts have writers of their own.
          known: the writer that this machine saw last, which has ended: who calls holds the lock
            of its folder.
          lost: called, in a thread, when another program has taken over.

        Raises:
          WriterError: another program writes there.
          StoreError: the store refuses, or cannot be reached.
        """
        self.token = uuid.uuid4().hex
        self.is_lost = False
        self._url, self._object, self._lost = url, urls.join(url, f"{OWN}/{name}.json"), lost
        self._beats = 0
        self._lock = threading.Lock()
        found = self._read()
        self.before = found and found["token"]
        if found and found["runs"] and self.before != known:
            self._wait_for_end(found)
        self._write(runs=True)
        time.sleep(_SETTLE)
        found = self._read()
        if found is None or found["token"] != self.token:
            raise self._refusal(found or {"who": "unknown"})
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Give the folder free."""
        self._stopped.set()
        self._thread.join()
        if self.is_lost:
            return
        try:
            self._write(runs=False)
        except urls.StoreError as error:  # the next writer waits a minute, then
            logging.warning("%s", error)

    def _wait_for_end(self, found: dict[str, Any]) -> None:
        """Return once the sign of another writer has not changed for long."""
        text = "%s: waiting up to %.0f s, to see whether %s still writes there."
        logging.info(text, self._url, _PATIENCE, found["who"])
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            time.sleep(min(_BEAT, _PATIENCE) / 5)
            now = self._read()
            if now is None or not now["runs"]:
                return
            if now != found:
                raise self._refusal(now)

    def _refusal(self, found: dict[str, Any]) -> WriterError:
        return WriterError(
            f"{self._url}: another program writes there ({found['who']}); wait for it, or end it."
        )

    def confirm(self) -> None:
        """Raise WriterError where another program has taken over; StoreError as usual."""
        found = self._read()
        if not self.is_lost and found is not None and found["token"] == self.token:
            return
        error = self._refusal(found or {"who": "unknown"})
        with self._lock:
            is_first, self.is_lost = not self.is_lost, True
        if is_first:
            logging.error("%s Nothing more is sent.", error)
            self._lost()
        raise error

    def _run(self) -> None:
        while not self._stopped.wait(_BEAT):
            try:
                self.confirm()
                self._write(runs=True)
            except WriterError:
                return
            except urls.StoreError as error:
                logging.warning("%s", error)

    def _read(self) -> dict[str, Any] | None:
        try:
            with urls.reaching(self._object):
                return json.loads(urls.file_system(self._url).cat_file(urls.key_of(self._object)))
        except urls.NothingThereError:
            return None

    def _write(self, *, runs: bool) -> None:
        self._beats += 1
        who = f"{platform.node()}, pid {os.getpid()}"
        sign = {"token": self.token, "who": who, "runs": runs, "beats": self._beats}
        put_data(self._object, json.dumps(sign).encode())
