"""The list of bad files, in one process and shared between many."""

import errno
import fcntl
import json
import multiprocessing
import pickle
import threading

import pytest

from tpgdiff_jax.data.skipped import SkipReport


def _report_from_worker(report: SkipReport, number: int) -> None:
    report.add("/photos/common.png", "truncated", "/photos")
    report.add(f"/photos/{number}.png", "empty file (0 bytes)", "/photos")


def test_each_file_is_listed_and_logged_once(caplog):
    report = SkipReport()
    for _ in range(3):
        report.add("/photos/b.png", "truncated", "/photos")
        report.add("/photos/a.png", "not an image", "/photos")
    assert report.items() == {"/photos/a.png": "not an image", "/photos/b.png": "truncated"}
    assert list(report.items()) == sorted(report.items())
    assert sum("b.png" in record.message for record in caplog.records) == 1


def test_items_of_one_source():
    report = SkipReport()
    report.add("/a/1.png", "truncated", "/a")
    report.add("/b/1.png", "truncated", "/b")
    assert list(report.items("/b")) == ["/b/1.png"]


def test_the_first_few_are_named_and_the_others_counted():
    report = SkipReport()
    assert report.describe(report.items()) == ""
    for number in range(1008):
        report.add(f"/photos/{number:04}.png", "truncated", "/photos")
    words = report.describe(report.items())
    assert words.startswith("0000.png (truncated), 0001.png (truncated)")
    assert words.endswith("and 1 003 more")


def test_too_large_a_share_stops():
    report = SkipReport()
    report.check(0, 0.0)
    report.add("/photos/a.png", "truncated", "/photos")
    report.check(10, 0.1)
    with pytest.raises(ValueError, match=r"1 of 9 files.*data\.max_bad_share=0\.1.*a\.png"):
        report.check(9, 0.1)


def test_a_copy_without_a_path_goes_its_own_way():
    report = SkipReport()
    report.add("a.png", "truncated")
    copy = pickle.loads(pickle.dumps(report))
    copy.add("b.png", "truncated")
    assert set(copy.items()) == {"a.png", "b.png"}
    assert set(report.items()) == {"a.png"}


def test_copies_with_a_path_share_one_file(tmp_path):
    report = SkipReport(tmp_path / "new" / "skipped.jsonl")
    copy = pickle.loads(pickle.dumps(report))
    copy.add("ä.png", "truncated", "/photos")
    report.add("ä.png", "truncated", "/photos")
    assert report.items() == copy.items() == {"ä.png": "truncated"}
    lines = report.path.read_text().splitlines()
    assert list(map(json.loads, lines)) == [
        {"file": "ä.png", "reason": "truncated", "source": "/photos"}
    ]


def test_half_written_and_foreign_lines_do_no_harm(tmp_path):
    report = SkipReport(tmp_path / "skipped.jsonl")
    report.add("a.png", "truncated")
    with report.path.open("a") as file:
        file.write('no JSON\n{"file": "b.png"')
    assert SkipReport(report.path).items() == {"a.png": "truncated"}


def test_clear_forgets_an_earlier_run(tmp_path):
    report = SkipReport(tmp_path / "skipped.jsonl")
    report.add("a.png", "truncated")
    again = SkipReport(tmp_path / "skipped.jsonl")
    assert again.items() == {"a.png": "truncated"}
    again.clear()
    assert again.items() == {}
    again.add("b.png", "truncated")
    assert again.items() == {"b.png": "truncated"}


def _clear_and_report(path, name, cleared, go) -> None:
    report = SkipReport(path)
    report.clear()
    report.add(name, "truncated")
    cleared.set()
    go.wait(60)


def test_a_second_process_of_a_run_deletes_nothing_of_the_first(tmp_path):
    path = tmp_path / "skipped.jsonl"
    SkipReport(path).add("of an earlier run.png", "truncated")
    context = multiprocessing.get_context("spawn")
    go, reports = context.Event(), []
    names = ("first.png", "second.png")
    for name in names:
        cleared = context.Event()
        process = context.Process(target=_clear_and_report, args=(path, name, cleared, go))
        process.start()
        reports.append(process)
        assert cleared.wait(60)
    report = SkipReport(path)
    assert report.items() == dict.fromkeys(names, "truncated")
    go.set()
    for process in reports:
        process.join()
        assert process.exitcode == 0
    # Once they have ended, a new run starts with nothing, also where it starts twice in a process.
    for _ in range(2):
        report.clear()
        assert report.items() == {}
        report.add("new.png", "truncated")


def test_who_reads_along_notices_a_new_file(tmp_path):
    report, reader = SkipReport(tmp_path / "skipped.jsonl"), SkipReport(tmp_path / "skipped.jsonl")
    report.add("a file with a long name.png", "truncated")
    assert reader.items()
    report.clear()
    report.add("b.png", "truncated")
    assert "b.png" in reader.items()


def test_without_locks_an_earlier_run_is_forgotten_all_the_same(tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    report = SkipReport(tmp_path / "skipped.jsonl")
    report.add("a.png", "truncated")
    report.clear()
    assert report.items() == {}
    assert "cannot be locked (No locks available)" in caplog.text


@pytest.mark.parametrize("shared", [False, True])
def test_threads_may_report_at_once(tmp_path, shared):
    report = SkipReport(tmp_path / "skipped.jsonl" if shared else None)
    threads = [
        threading.Thread(target=lambda: [report.add(f"{i}.png", "truncated") for i in range(100)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(report.items()) == 100
    if shared:
        assert len(report.path.read_text().splitlines()) == 100


def test_spawned_processes_report_into_one_file(tmp_path):
    report = SkipReport(tmp_path / "skipped.jsonl")
    report.add("/photos/main.png", "truncated", "/photos")
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_report_from_worker, args=(report, number)) for number in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    names = {file.removeprefix("/photos/") for file in report.items()}
    assert names == {"main.png", "common.png", "0.png", "1.png"}
    report.check(total=8, max_share=0.5)
    with pytest.raises(ValueError, match="4 of 8"):
        report.check(total=8, max_share=0.4)
