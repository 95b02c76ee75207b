"""Files appear whole or not at all."""

import errno
import os
import pathlib
from contextlib import nullcontext

import pytest

from tpgdiff_jax.reporting import files
from tpgdiff_jax.reporting.files import replacing, write_text


def test_a_text_is_written_whole_with_names_that_are_no_text(tmp_path):
    path = tmp_path / "new" / "report.md"
    write_text(path, "ä \udce9\n")
    assert path.read_text(encoding="utf-8") == "ä \\udce9\n"
    assert [p.name for p in path.parent.iterdir()] == ["report.md"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_fails_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_program_left_is_removed_and_what_is_being_written_stays(
    tmp_path, start_python
):
    # The same code twice: one process is killed while it writes, one goes on writing.
    code = """
import pathlib, sys, time
from tpgdiff_jax.reporting.files import replacing
with replacing(pathlib.Path(sys.argv[1]) / sys.argv[2]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    sys.stdin.read()
"""
    killed, writing = (start_python(code, tmp_path, name) for name in ("a.txt", "b.txt"))
    left, kept = (pathlib.Path(p.stdout.readline().strip()) for p in (killed, writing))
    killed.kill()
    killed.wait()
    mine = tmp_path / ".notes.partial.txt"
    mine.write_text("the user's")
    write_text(tmp_path / "c.txt", "whole")
    assert not left.exists()
    assert kept.exists()
    assert mine.exists()
    writing.stdin.close()
    assert writing.wait() == 0
    assert {p.name for p in tmp_path.iterdir()} == {"b.txt", "c.txt", mine.name}


def test_a_file_that_another_program_removes_before_it_is_locked_is_made_anew(
    tmp_path, monkeypatch
):
    lock, cleaned = files._lock, []

    def late(file, **how):
        monkeypatch.undo()
        cleaned.extend(tmp_path.iterdir())
        files._remove_left_over.__wrapped__(tmp_path)
        assert not list(tmp_path.iterdir())
        return lock(file, **how)

    monkeypatch.setattr(files, "_lock", late)
    files._remove_left_over.cache_clear()
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        files._remove_left_over.__wrapped__(tmp_path)  # of a third program: it is in work
        assert cleaned == [temporary] == list(tmp_path.iterdir())
    assert (tmp_path / "a.txt").read_text() == "whole"


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_only_a_disk_that_failed_stops_a_file(tmp_path, monkeypatch, number, passes):
    def fsync(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fsync)
    path = tmp_path / "a.txt"
    with nullcontext() if passes else pytest.raises(OSError, match="Input/output"):
        write_text(path, "whole")
    assert [p.name for p in tmp_path.iterdir()] == (["a.txt"] if passes else [])


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_that_is_there_stays_where_nothing_shall_be_replaced(
    tmp_path, monkeypatch, has_links
):
    def link(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", link)
    path, dangling = tmp_path / "a.txt", tmp_path / "b.txt"
    dangling.symlink_to("nowhere")
    for place in (path, dangling):
        with replacing(place, replaces=False) as temporary:
            temporary.write_text("first")
    with pytest.raises(FileExistsError), replacing(path, replaces=False) as temporary:
        temporary.write_text("second")
    assert path.read_text() == dangling.read_text() == "first"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b.txt"]


def test_a_disk_that_ignores_case_is_known_by_a_name_in_capitals(tmp_path, monkeypatch):
    missing, exists = tmp_path / "not" / "yet", os.path.exists
    assert not files.ignores_case(tmp_path)
    assert not files.ignores_case(missing)

    def exists_without_case(path):
        folder, name = os.path.split(path)
        return exists(path) or name.lower() in map(str.lower, os.listdir(folder))

    monkeypatch.setattr(files.os.path, "exists", exists_without_case)
    assert files.ignores_case(missing)
    assert list(tmp_path.iterdir()) == []
