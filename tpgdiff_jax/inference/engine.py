"""The one way to bring many images through a program; a device waits for no file.

Threads read the images that come next and write the results that came before, and a batch is begun
before the last one is fetched.  A batch that does not fit into memory is tried again with nothing
beside it, then halved; an image that does not fit alone, or cannot be read, fails alone.
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.reporting.errors import UserError

_THREADS = 4
_CHUNKS_AHEAD = 2
# What a file may do when it is read.  All else is ours, and keeps its traceback.
_AT_FAULT = (UserError, UnreadableImageError, OSError, MemoryError)

Finish = Callable[[], Sequence[Any]]


@dataclasses.dataclass
class Outcome:
    """What became of an image.

    Attributes:
      source: what was to be read.
      item: what was read.
      result: what was made of it; None where it failed, or was in no batch.
      error: why it failed.
      seconds: its part of its batch's time, from when the batch was begun, or the device was done
        with the one before, until its results were there; whatever is done meanwhile for others.
    """

    source: Any
    item: Any = None
    result: Any = None
    error: Exception | None = None
    seconds: float = 0.0


def stream(
    chunks: Iterable[Sequence[Any]],
    read: Callable[[Any], Any],
    group: Callable[[Sequence[Any]], Iterable[Sequence[int]]],
    start: Callable[[Sequence[Any]], Finish],
    wanted: Callable[[Any], bool] = lambda source: True,
) -> Iterator[Outcome]:
    """Yield what becomes of every image, in the order given; memory holds a few chunks.

    Args:
      chunks: sources of images, some at a time; fetched as they are needed.
      read: turns a source into an item; runs in threads.
      group: which of some items (indices) form a batch; an item may be in none.
      start: begins a batch of items; returns what waits for its results, one for each item.  A
        result that is an exception is the item's error.
      wanted: whether a source that was read shall still be worked on.

    Raises:
      Exception: whatever `start` raises, but for want of memory, and `read`, but for what files
        are at fault for.
    """
    pool, fetching = ThreadPoolExecutor(_THREADS), ThreadPoolExecutor(1)
    begin = functools.partial(_begin, start, fetching)
    running: collections.deque[tuple[_Batch, list[Outcome]]] = collections.deque()
    idle_since = 0.0

    def oldest() -> list[Outcome]:
        nonlocal idle_since
        batch, done = running.popleft()
        if not batch.wait(idle_since):
            for other, _ in running:
                batch.has_company |= other.is_working
                other.wait()
            batch.work_alone()
        idle_since = max(idle_since, batch.done_at)
        return done

    try:
        for chunk in _read_ahead(pool, read, chunks):
            usable = [each for each in chunk if each.error is None and wanted(each.source)]
            groups = list(group([outcome.item for outcome in usable])) or [()]
            for number, indices in enumerate(groups, 1):
                members = [usable[index] for index in indices]
                company = any(other.is_working for other, _ in running)
                batch = _Batch(begin, members, has_company=company)
                running.append((batch, chunk if number == len(groups) else []))
                if len(running) > 1:
                    yield from oldest()
        while running:
            yield from oldest()
    finally:
        pool.shutdown(cancel_futures=True)
        fetching.shutdown(cancel_futures=True)


class WriteBehind:
    """Writes results in threads while the device goes on; a context manager.

    What follows a write, such as a line in a log, is done in the order of the results.
    """

    def __init__(
        self, write: Callable[..., None], file: Callable[[Any, Future | None], None], most: int = 8
    ):
        """Start the threads.

        Args:
          write: what they do.
          file: called with a result and what waits for its write, when that is done; with None for
            a result of which nothing is written.
          most: results that wait, so that memory holds no more.
        """
        self._write, self._file, self._most = write, file, most
        self._pool = ThreadPoolExecutor(_THREADS)
        self._waiting: collections.deque[tuple[Any, Future | None]] = collections.deque()

    def put(self, result: Any, *args: Any, room: int | None = None) -> None:
        """Take a result.

        Args:
          result: what `file` is told.
          args: of `write`; without any, nothing is written.
          room: results that fit into memory, where that is less than may wait.

        Raises:
          Exception: what `file` raises about an earlier one.
        """
        self._waiting.append((result, self._pool.submit(self._write, *args) if args else None))
        self._settle(self._most if room is None else min(room, self._most))

    def written(self) -> int:
        """Count results that were written but could not be filed, after an error."""
        return sum(_is_written(future) for _, future in self._waiting)

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self._settle(0)
        finally:
            self._pool.shutdown(cancel_futures=True)
        if kind is KeyboardInterrupt:  # who presses Ctrl-C waits for these
            for result, future in self._waiting:
                if _is_written(future):
                    self._file(result, future)

    def _settle(self, most: int) -> None:
        while waiting := self._waiting:
            result, future = waiting[0]
            if future is not None and not future.done() and len(waiting) <= most:
                return
            waiting.popleft()
            self._file(result, future)


def _is_written(future: Future | None) -> bool:
    return future is not None and not future.cancelled() and future.exception() is None


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a batch failed for want of memory, of the host's or a device's."""
    on_device = isinstance(error, jax.errors.JaxRuntimeError)
    return isinstance(error, MemoryError) or (on_device and "RESOURCE_EXHAUSTED" in str(error))


def reason(error: Exception, remedy: str = "try a smaller --tile") -> str:
    """Say in a few words why an image failed; its name stands beside it already.

    Args:
      error: of an `Outcome`.
      remedy: what helps against want of memory.
    """
    if isinstance(error, UnreadableImageError):
        return error.reason
    if is_out_of_memory(error):
        where = "there is" if isinstance(error, MemoryError) else "the device has"
        return f"needs more memory than {where}; {remedy}"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return str(error)


def _read_ahead(
    pool: ThreadPoolExecutor, read: Callable[[Any], Any], chunks: Iterable[Sequence[Any]]
) -> Iterator[list[Outcome]]:
    def fetch(source: Any) -> Outcome:
        try:
            return Outcome(source, read(source))
        except _AT_FAULT as error:
            return Outcome(source, error=error)

    waiting: collections.deque[list[Future]] = collections.deque()
    for chunk in chunks:
        waiting.append([pool.submit(fetch, source) for source in chunk])
        if len(waiting) > _CHUNKS_AHEAD:
            yield [future.result() for future in waiting.popleft()]
    while waiting:
        yield [future.result() for future in waiting.popleft()]


# Results of a batch, and when they were there.
_Fetch = Future[tuple[Sequence[Any], float]]


def _begin(
    start: Callable[[Sequence[Any]], Finish], fetching: ThreadPoolExecutor, items: Sequence[Any]
) -> _Fetch:
    """Begin a batch and fetch its results in a thread, which sees when they are there.

    Who waits for them begins the next batch first, and may compile its program.
    """
    finish = start(items)
    return fetching.submit(lambda: (finish(), time.perf_counter()))


class _Batch:
    """Images that a device works on together.

    Attributes:
      has_company: other batches lie in memory with it; without them it may fit.
      done_at: when its results were there; 0 before.
    """

    def __init__(
        self,
        begin: Callable[[Sequence[Any]], _Fetch],
        members: list[Outcome],
        has_company: bool = False,
    ):
        self._begin_all, self._members, self.has_company = begin, members, has_company
        self.done_at = 0.0
        self._fetching = self._failure = None
        if members:
            self._try(self._begin)

    @property
    def is_working(self) -> bool:
        """Whether it was begun and is not fetched yet: it lies in memory."""
        return self._fetching is not None

    def wait(self, idle_since: float = 0.0) -> bool:
        """Give every member its result, unless the batch did not fit into memory.

        Args:
          idle_since: when the device was done with the batch before.

        Returns:
          whether it fitted.
        """
        if self._fetching is not None:
            self._began = max(self._began, idle_since)
            self._try(self._fetch)
        return self._failure is None

    def work_alone(self) -> None:
        """Give every member of a batch that did not fit its result or its error."""
        if self.has_company:
            self.has_company = False
            self._try(self._begin)
            if self.wait():
                return
        if len(self._members) == 1:
            self._members[0].error = self._failure
            return
        middle = len(self._members) // 2
        for half in (self._members[:middle], self._members[middle:]):
            batch = _Batch(self._begin_all, half)
            if not batch.wait():
                batch.work_alone()
            self.done_at = max(self.done_at, batch.done_at)

    def _begin(self) -> None:
        self._began = time.perf_counter()
        self._fetching = self._begin_all([member.item for member in self._members])

    def _fetch(self) -> None:
        fetching, self._fetching = self._fetching, None
        results, self.done_at = fetching.result()
        seconds = (self.done_at - self._began) / len(self._members)
        for member, result in zip(self._members, results, strict=True):
            failed = isinstance(result, Exception)
            member.result, member.error = (None, result) if failed else (result, None)
            member.seconds = seconds

    def _try(self, step: Callable[[], None]) -> None:
        self._failure = None
        try:
            step()
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._failure = error.with_traceback(None)  # whose frames would hold the arrays
