"""One after the other: places, steps, time left, cancelling, and trouble that stays one's own."""

import threading
import time

import pytest
from app_files import finished

from tpgdiff_jax.app import jobs
from tpgdiff_jax.app.jobs import Job, Jobs
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.reporting.errors import UserError


class Steps:
    """Work that takes a step whenever it is told to."""

    def __init__(self, total=3):
        self.total, self.go, self.began = total, threading.Semaphore(0), threading.Event()

    def __call__(self, watch):
        watch(0, self.total)
        self.began.set()
        for number in range(1, self.total + 1):
            self.go.acquire(timeout=60)
            watch(number, self.total)
        return "made"


def test_visitors_wait_in_turn_and_know_their_place():
    line = Jobs(most=5)
    work = [Steps() for _ in range(3)]
    mine, yours, theirs = (
        line.submit(Job(f"visitor {n}", "photo.png", each)) for n, each in enumerate(work)
    )
    assert work[0].began.wait(60)
    assert [line.ahead(job) for job in (mine, yours, theirs)] == [0, 1, 2]
    assert (mine.state, yours.state) == (jobs.RUNNING, jobs.WAITING)
    work[0].go.release(3)
    assert finished(mine).answer == "made"
    assert work[1].began.wait(60)
    assert line.ahead(theirs) == 1
    for each in work[1:]:
        each.go.release(3)
    assert finished(theirs).state == finished(yours).state == jobs.DONE


def test_cancelling_stops_the_own_job_after_its_step_and_no_other():
    line, first, second = Jobs(most=5), Steps(), Steps()
    mine, yours = line.submit(Job("me", "a", first)), line.submit(Job("you", "b", second))
    waiting = line.submit(Job("them", "c", Steps()))
    assert first.began.wait(60)
    line.cancel("them")
    assert waiting.state == jobs.CANCELLED
    line.cancel("me")
    assert mine.state == jobs.RUNNING
    first.go.release()
    assert finished(mine).state == jobs.CANCELLED
    assert mine.done == 1
    second.go.release(3)
    assert finished(yours).state == jobs.DONE


def test_a_new_request_takes_the_place_of_the_visitors_old_one():
    line, old, new = Jobs(most=5), Steps(), Steps(1)
    before = line.submit(Job("me", "a", old))
    assert old.began.wait(60)
    after = line.submit(Job("me", "a", new))
    old.go.release()
    new.go.release()
    assert finished(before).state == jobs.CANCELLED
    assert finished(after).state == jobs.DONE


def test_a_visitors_newest_job_is_known_until_the_visitor_goes():
    line = Jobs(most=5)
    before = finished(line.submit(Job("me", "a", Steps(0))))
    assert line.is_newest(before)
    yours, after = line.submit(Job("you", "b", Steps(0))), line.submit(Job("me", "c", Steps(0)))
    assert [line.is_newest(job) for job in (before, yours, finished(after))] == [False, True, True]
    line.close("me")
    assert not line.is_newest(after)


def test_a_line_that_is_full_says_so():
    line, work = Jobs(most=1), Steps()
    running = line.submit(Job("me", "a", work))
    assert work.began.wait(60)
    line.submit(Job("you", "b", Steps(0)))
    with pytest.raises(UserError, match="1 pictures wait already"):
        line.submit(Job("them", "c", Steps()))
    work.go.release(3)
    assert finished(running).state == jobs.DONE


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UserError("photo.png: its restoration is not finite"), "photo.png: its restoration is"),
        (UnreadableImageError("/uploads/photo.png", "truncated"), "photo.png: truncated."),
        (MemoryError(), "photo.png: needs more memory than there is; choose a smaller picture."),
        (ZeroDivisionError("oh"), jobs.OUR_FAULT),
    ],
)
def test_trouble_is_a_sentence_and_the_next_visitor_is_served(error, sentence, caplog):
    def fails(watch):
        raise error

    line = Jobs(most=5)
    failed = finished(line.submit(Job("me", "photo.png", fails)))
    assert failed.state == jobs.FAILED
    assert failed.sentence.startswith(sentence)
    assert finished(line.submit(Job("you", "b", Steps(0)))).answer == "made"


def test_the_time_left_follows_the_steps_without_the_first(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    job = Job("me", "a", Steps())
    job.watch(0, 10)
    assert job.seconds_left() is None
    now = 8.0  # compiled
    job.watch(1, 10)
    assert job.seconds_left() == pytest.approx(72)
    now = 9.0
    job.watch(2, 10)
    assert job.seconds_left() == pytest.approx(8)
    now = 12.0
    job.watch(3, 10)
    assert job.seconds_left() == pytest.approx(14)
