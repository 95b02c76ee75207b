"""Whatever happens to one visitor's work, the others' is done."""

import os
import threading
import time

import pytest

from tpgdiff_jax.app import jobs
from tpgdiff_jax.app.jobs import Job, Jobs
from tpgdiff_jax.app.limits import Limits
from tpgdiff_jax.app.store import Store


def _over(job: Job, seconds: float = 60) -> Job:
    end = time.monotonic() + seconds
    while not job.is_over:
        assert time.monotonic() < end, f"{job.state} for {seconds} s"
        time.sleep(0.01)
    return job


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), RecursionError("deep"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_work_that_crashes_leaves_the_line_at_work(error):
    def crashes(watch):
        raise error

    line = Jobs(most=50)
    mine = [line.submit(Job(f"me {n}", "a.png", crashes)) for n in range(10)]
    yours = [line.submit(Job(f"you {n}", "b.png", lambda watch, n=n: n)) for n in range(10)]
    assert {_over(job).state for job in mine} == {jobs.FAILED}
    assert all(job.sentence for job in mine)
    assert [_over(job).answer for job in yours] == list(range(10))


def test_visitors_who_come_and_go_at_once_find_the_line_in_order():
    line, done = Jobs(most=10_000), []

    def visit(number: int) -> None:
        for turn in range(20):
            job = line.submit(Job(f"visitor {number}", "a.png", lambda watch: watch(1, 1)))
            if turn % 3 == 0:
                line.cancel(f"visitor {number}")
            line.ahead(job)
            done.append(job)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {_over(job).state for job in done} <= {jobs.DONE, jobs.CANCELLED}
    assert _over(line.submit(Job("last", "b.png", lambda watch: "made"))).answer == "made"


def test_uploads_that_broke_off_are_removed_long_before_whole_ones(tmp_path):
    store = Store(tmp_path, seconds=3600, stalled_seconds=120)
    (store.uploads / "hash").mkdir()
    for path, age in (("tmp_part", 130), ("tmp_growing", 5), ("hash/whole.png", 130)):
        (store.uploads / path).write_bytes(b"x" * 100)
        os.utime(store.uploads / path, (time.time() - age,) * 2)
    assert store.held_bytes() >= 300
    store.sweep()
    left = sorted(path.name for path in store.uploads.rglob("*") if path.is_file())
    assert left == ["tmp_growing", "whole.png"]


def test_no_limit_of_the_page_is_missing():
    for name, value in vars(Limits()).items():
        assert value > 0, name
