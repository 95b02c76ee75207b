"""One device, many visitors: requests wait in turn, are told their place, and can be cancelled."""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from absl import logging

from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.inference.engine import is_out_of_memory, reason
from tpgdiff_jax.inference.stepwise import Watch
from tpgdiff_jax.reporting.errors import UserError

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
OUR_FAULT = "The page made a mistake; what it was stands in the terminal where it was started."


class CancelledError(Exception):
    """The visitor does not want the picture any more."""


@dataclasses.dataclass
class Job:
    """A request on its way.

    Attributes:
      session: whose it is.
      name: what errors call its picture.
      work: does it; told whom to tell of each step.
      needs: tokens of the files that it reads.
      state: `WAITING`, `RUNNING`, `DONE`, `FAILED` or `CANCELLED`.
      done, total: steps; 0 of 0 before the first.
      passes: restorations in a row, so far; each further one adds to the steps.
      answer: what `work` returned.
      sentence: why it failed.
    """

    session: str
    name: str
    work: Callable[[Watch], Any]
    needs: frozenset[str] = frozenset()
    state: str = WAITING
    done: int = 0
    total: int = 0
    passes: int = 1
    answer: Any = None
    sentence: str = ""
    _unwanted: bool = False
    _times: list[float] = dataclasses.field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in (DONE, FAILED, CANCELLED)

    def seconds_left(self) -> float | None:
        """Return how long the steps that are left will take; None where nothing tells yet.

        The first step may have waited for its program to be compiled, so it counts only alone.
        """
        first = 1 if len(self._times) > 2 else 0
        if len(self._times) - first < 2:
            return None
        spent = self._times[-1] - self._times[first]
        return spent / (len(self._times) - 1 - first) * (self.total - self.done)

    def watch(self, done: int, total: int) -> None:
        """Take note of a step.

        Raises:
          CancelledError: the visitor has cancelled.
        """
        self.passes += 0 < self.total < total
        self.done, self.total = done, total
        self._times.append(time.monotonic())
        if self._unwanted:
            raise CancelledError


class Jobs:
    """A line of jobs and the thread that does them."""

    def __init__(self, most: int):
        """Start the thread.

        Args:
          most: jobs that may wait.
        """
        self._most = most
        self._line: collections.deque[Job] = collections.deque()
        self._running: Job | None = None
        self._newest: dict[str, Job] = {}  # of each visitor, whatever became of it
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True, name="restoring").start()

    def submit(self, job: Job) -> Job:
        """Put a job at the end of the line; an older one of its visitor is cancelled.

        Raises:
          UserError: too many wait.
        """
        with self._changed:
            self.cancel(job.session)
            self._newest[job.session] = job
            if len(self._line) >= self._most:
                raise UserError(
                    f"{len(self._line)} pictures wait already, and no more fit; try again later."
                )
            self._line.append(job)
            self._changed.notify()
        return job

    def ahead(self, job: Job) -> int:
        """Return how many jobs are done before this one, the running one included."""
        with self._changed:
            waiting = list(self._line)
            running = self._running is not None
        return waiting.index(job) + running if job in waiting else 0

    def needed(self, session: str) -> set[str]:
        """Return the files that a visitor's jobs still read, also one that ends after its step."""
        with self._changed:
            jobs = [*self._line, *([self._running] if self._running else [])]
        return {token for job in jobs if job.session == session for token in job.needs}

    def is_newest(self, job: Job) -> bool:
        """Tell whether its visitor has asked for nothing after this job, and is still there."""
        with self._changed:
            return self._newest.get(job.session) is job

    def close(self, session: str) -> None:
        """Cancel a visitor's jobs and forget the visitor."""
        with self._changed:
            self.cancel(session)
            self._newest.pop(session, None)

    def cancel(self, session: str) -> None:
        """Cancel a visitor's jobs: at once where they wait, after its step where one runs."""
        with self._changed:
            for job in [job for job in self._line if job.session == session]:
                self._line.remove(job)
                job.state = CANCELLED
            if self._running is not None and self._running.session == session:
                self._running._unwanted = True

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._line:
                    self._changed.wait()
                job = self._running = self._line.popleft()
                job.state = RUNNING
            _do(job)
            with self._changed:
                self._running = None


def _do(job: Job) -> None:
    """Do a job; whatever goes wrong, the page goes on."""
    try:
        job.answer = job.work(job.watch)
        job.state = CANCELLED if job._unwanted else DONE
    except CancelledError:
        job.state = CANCELLED
    except (UserError, UnreadableImageError, OSError) as error:
        job.sentence = f"{job.name}: {reason(error).removeprefix(f'{job.name}: ').rstrip('.')}."
        job.state = FAILED
    except BaseException as error:  # one visitor's trouble is not the others': the thread goes on
        if is_out_of_memory(error):
            job.sentence = f"{job.name}: {reason(error, 'choose a smaller picture')}."
        else:
            logging.exception("%s: restoring failed", job.name)
            job.sentence = OUR_FAULT
        job.state = FAILED
    if job.state != DONE:
        job.answer = None
