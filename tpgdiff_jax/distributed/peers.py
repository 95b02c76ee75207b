"""Notice when another process of the job dies or fails: all end within a minute, and say which.

JAX would notice after minutes, at the next message between the devices or when a wait of orbax
runs out, and would not say why.  Here every process leaves a sign of life in the key-value store of
`jax.distributed` every few seconds.  Process 0 looks for signs that stay away; a process that fails
says so itself.  Whoever reads of an end prints one sentence and ends too.
"""

import os
import pathlib
import platform
import sys
import threading
import time
from typing import NoReturn

import jax
from absl import logging
from jax._src import distributed  # its store has no public name

from tpgdiff_jax.distributed.aborts import speak_before_aborts
from tpgdiff_jax.reporting.crash_file import write_crash_file
from tpgdiff_jax.reporting.errors import one_line
from tpgdiff_jax.reporting.leaving import leave_now

PEER_FAILED = 3  # exit code of a process that ends because another one did
_BEAT = 1.0  # seconds between two signs of life
_SILENCE = 30.0  # without one: far longer than a busy machine delays a thread
_LINGER = 10.0  # process 0 holds the store: so long the others may read of its end
_LEAVING = 0.3  # what one that has read takes to print a sentence and leave
_UNWIND = 20.0  # a process that failed may wait in vain for others while it cleans up
_HOUR = 3_600_000  # milliseconds
_ROOT = "tpgdiff_jax"


class _Watch:
    """The signs of life of this process, and a thread that looks for the others'."""

    def __init__(self):
        state = distributed.global_state
        self.index, self.count = state.process_id, state.num_processes
        self._client, self._number = state.client, 0
        self._who = f"process {self.index} of {self.count} ({platform.node()}, pid {os.getpid()})"
        self._heard: dict[int, tuple[str, float]] = {}  # process -> its last sign, and when
        self._failed_at: float | None = None
        self._sentence = ""
        self.crash_folder: pathlib.Path | None = None
        self._stopped, self._alone = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self._first_lost = f"process 0 of {self.count} has died or cannot be reached"
        text = self._said_of(self._first_lost)
        self._answered = time.monotonic()
        speak_before_aborts(
            state.coordinator_address,
            lambda: time.monotonic() - self._answered > _SILENCE,
            text,
            PEER_FAILED,
            self._wait_for_verdict,
            self._alone.is_set,
        )
        self._beat()
        self._thread.start()

    def fail(self, error: BaseException) -> None:
        """Write the crash file and tell the others why this process ends, once.

        Where messages between processes failed, another one's end may be the cause; the thread
        learns of that and then ends this process.
        """
        if self._failed_at is not None:
            return
        if _is_of_messages(error):
            self._wait_for_verdict()
        self._failed_at = time.monotonic()
        self._sentence = one_line(error)
        if isinstance(error, KeyboardInterrupt):
            self._sentence = "Ctrl-C"
        if self.crash_folder is not None:
            write_crash_file(self.crash_folder, self.index, self._who, error)
        try:
            self._set(f"ended/{self.index}", f"{self._who} failed: {self._sentence}")
        except jax.errors.JaxRuntimeError as gone:  # process 0 has ended already, with the store
            logging.warning("The other processes cannot be told: %s", gone)

    def _wait_for_verdict(self) -> None:
        """Give the thread time to learn of another process's end, and to end this one."""
        self._stopped.wait(_SILENCE + 5 * _BEAT)

    def linger(self) -> None:
        """Return once the others have read of the end that this process has told of."""
        self._stopped.set()
        self._wait_for_readers()

    def end(self) -> None:
        """Wait until all processes are done; one that fails meanwhile ends this one."""
        try:
            self._set(f"done/{self.index}", "1")
            while len(self._all("done")) < self.count:
                time.sleep(0.05)
            self.stop()
        except jax.errors.JaxRuntimeError:  # process 0 has ended too early; the thread says so
            self._thread.join()

    def stop(self) -> None:
        """Look for the others no longer; they look for this one no longer."""
        self._set(f"done/{self.index}", "1")
        self._stopped.set()
        self._thread.join()
        self._alone.set()

    def _run(self) -> None:
        while not self._stopped.wait(_BEAT):
            try:
                self._beat()
                if self.index == 0:
                    self._find_silent()
                ended = self._all("ended")
                self._answered = time.monotonic()
            except jax.errors.JaxRuntimeError:
                if self._stopped.is_set():
                    return
                ended = {0: self._first_lost}
            others = {index: text for index, text in ended.items() if index != self.index}
            if others and self._failed_at is None:  # else this one ends by itself
                self._stop_for(others[min(others)])
            if self._failed_at is not None and time.monotonic() - self._failed_at > _UNWIND:
                print(f"error: {self._sentence}", file=sys.stderr, flush=True)
                self._wait_for_readers()
                leave_now(2)

    def _stop_for(self, why: str) -> NoReturn:
        """End this process because of another one."""
        print(f"\n{self._said_of(why)}", file=sys.stderr, flush=True)
        self._wait_for_readers()
        leave_now(PEER_FAILED)

    def _said_of(self, why: str) -> str:
        return f"error: {why}. Process {self.index} ends, too; the same command continues."

    def _wait_for_readers(self) -> None:
        """Say that this process has read of an end; process 0 waits until the others have, too."""
        until = time.monotonic() + _LINGER
        try:
            self._set(f"read/{self.index}", "1")
            while self.index == 0 and time.monotonic() < until:
                # Not those that have failed as well: they have still to say so.
                if len(self._all("read").keys() | self._all("done").keys()) >= self.count:
                    time.sleep(_LEAVING)
                    break
                time.sleep(0.1)
        except jax.errors.JaxRuntimeError:  # the store is gone: there is nobody to wait for
            return

    def _find_silent(self) -> None:
        """Tell of processes that have given no sign for long; those that are done need not."""
        now = time.monotonic()
        for index, sign in self._all("alive").items():
            number, _, who = sign.partition(" ")
            before = self._heard.get(index)
            if before is None or before[0] != number:
                self._heard[index] = number, now
            elif now - before[1] > _SILENCE and index not in self._all("done"):
                text = f"{who} has died: no sign of it for {_SILENCE:.0f} s"
                self._set(f"read/{index}", "1")  # nobody waits for it
                self._set(f"ended/{index}", text)

    def _beat(self) -> None:
        self._number += 1
        self._set(f"alive/{self.index}", f"{self._number} {self._who}")

    def _set(self, key: str, value: str) -> None:
        self._client.key_value_set(f"{_ROOT}/{key}", value, allow_overwrite=True)

    def _all(self, folder: str) -> dict[int, str]:
        found = self._client.key_value_dir_get(f"{_ROOT}/{folder}")
        return {int(key.rpartition("/")[2]): value for key, value in found}


def _is_of_messages(error: BaseException) -> bool:
    """Tell whether an error may be another process's: not of this one's memory or values."""
    # On CPUs gloo's errors come as ValueError (jax 0.10.2).
    is_message = isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)
    return is_message and "RESOURCE_EXHAUSTED" not in str(error)


_WATCHES: list[_Watch] = []  # at most one; none where this process is alone


def watch() -> None:
    """Begin to look for the other processes, once this one has joined them."""
    if jax.distributed.is_initialized() and distributed.global_state.num_processes > 1:
        _WATCHES.append(_Watch())


def is_first() -> bool:
    """Tell whether this process is the one that writes logs; starts no devices."""
    return not jax.distributed.is_initialized() or distributed.global_state.process_id == 0


def are_watched() -> bool:
    """Tell whether this process works together with others."""
    return bool(_WATCHES)


def said_by_first(name: str, text: str, *, first: int = 0) -> str:
    """Return what process 0 says; the others wait for it, an hour at most.

    Args:
      name: of what is said, once in a program.
      text: what this process would say; a process alone is the first.
      first: another process that speaks instead.
    """
    if jax.process_count() == 1:
        return text
    client, key = distributed.global_state.client, f"{_ROOT}/said/{name}"
    if jax.process_index() == first:
        client.key_value_set(key, text)
        return text
    return client.blocking_key_value_get(key, _HOUR)


def keep_crashes_in(folder: pathlib.Path) -> None:
    """Let this process describe its end in `folder`, should it fail while others are watched."""
    for own in _WATCHES:
        own.crash_folder = folder


def fail(error: BaseException) -> None:
    """Tell the others, if there are any, that this process ends because of an error.

    Call as soon as the error is met: closing what is open may wait for the others.
    """
    for own in _WATCHES:
        own.fail(error)


def linger() -> bool:
    """Wait until the others have read of this process's end, 10 seconds at most.

    Returns:
      whether there are any; the process must then end by `leave_now`.
    """
    for own in _WATCHES:
        own.linger()
    return bool(_WATCHES)


def end() -> None:
    """Wait for the end of all processes' work; ends this process if another one fails."""
    while _WATCHES:
        _WATCHES.pop().end()


def part() -> None:
    """Go on alone from here: the others may end, or fail, without this process."""
    while _WATCHES:
        _WATCHES.pop().stop()
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
