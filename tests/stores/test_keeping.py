"""Working in a copy of a store's folder: on one machine after another, by one program at a time."""

import json
import os
import threading

import pytest

from tpgdiff_jax.reporting.errors import RunStoppedError, UserError
from tpgdiff_jax.stores import copies, keeping, places, sending, urls, writer
from tpgdiff_jax.stores.keeping import kept_folder

SIGN = ".tpgdiff_jax/train.json"


def work(url, **options):
    return keeping.keeping(url, "train", **({"is_whole": True} | options))


def begin(url, name=None):
    """Work for a moment, writing a file where one is named."""
    with work(url) as folder:
        if name:
            (folder / name).write_text("1")


def names(url):
    return set(copies.listing(url)) - {SIGN}


def kill(monkeypatch):
    """Let the next block end as a killed process does: nothing is sent or said any more."""

    def stop(one):
        one._stopped.set()
        one._thread.join()

    monkeypatch.setattr(keeping, "_finish", lambda url, folder, one, sender: sender.stop())
    monkeypatch.setattr(writer.Writer, "end", stop)


def test_another_machine_goes_on_with_what_was_sent(store, another_machine):
    with work(store("run")) as folder:
        (folder / "a").write_text("1")
    another_machine()
    with work(store("run")) as folder:
        assert (folder / "a").read_text() == "1"
        (folder / "a").write_text("2")
        (folder / "b").write_text("3")
    assert names(store("run")) == {"a", "b"}


def test_the_same_machine_copies_nothing_and_sends_what_a_killed_program_left(store, monkeypatch):
    with work(store("run")) as folder:
        (folder / "a").write_text("1")
    with monkeypatch.context() as patch:
        kill(patch)
        with work(store("run")) as folder:
            (folder / "b").write_text("2")
    assert names(store("run")) == {"a"}
    monkeypatch.setattr(keeping, "copy", None)
    with work(store("run")) as folder:
        assert (folder / "b").read_text() == "2"
    assert names(store("run")) == {"a", "b"}


def test_what_was_not_sent_is_set_aside_where_another_machine_went_on(
    store, another_machine, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr(writer, "_PATIENCE", 0.2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    with monkeypatch.context() as patch:
        kill(patch)
        with work(store("run")) as folder:
            (folder / "lost").write_text("2")
    another_machine()
    with work(store("run")) as folder:
        assert list(folder.glob("[!.]*")) == []
        (folder / "theirs").write_text("3")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    with work(store("run")) as folder:
        assert [path.name for path in folder.glob("[!.]*")] == ["theirs"]
    aside = folder.with_name("run.kept.unsent_1")
    assert (aside / "lost").read_text() == "2"
    assert places.own_path(aside) in places.with_addresses(caplog.text)


def test_a_second_program_is_refused_here_and_elsewhere(store, another_machine):
    with work(store("run")) as folder:
        with pytest.raises(RunStoppedError, match="another program of this machine"):
            begin(store("run"))
        another_machine()
        with pytest.raises(writer.WriterError, match=r"another program writes there \(.*pid \d+\)"):
            begin(store("run"))
        (folder / "a").write_text("1")
    assert names(store("run")) == {"a"}


def test_of_two_that_begin_at_once_one_goes_on(store, monkeypatch, tmp_path):
    monkeypatch.setattr(writer, "_SETTLE", 0.5)
    both, outcomes = threading.Barrier(2), []

    def begin():
        try:
            both.wait()
            one = writer.Writer(store("run"), "train", None, lambda: None)
            outcomes.append(one)
        except writer.WriterError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (one,) = [found for found in outcomes if isinstance(found, writer.Writer)]
    one.end()


def test_a_killed_writer_is_waited_for_then_followed(store, another_machine, monkeypatch):
    with monkeypatch.context() as patch:
        kill(patch)
        with work(store("run")):
            pass
    another_machine()
    monkeypatch.setattr(writer, "_PATIENCE", 0.2)
    with work(store("run")) as folder:
        (folder / "a").write_text("1")
    assert names(store("run")) == {"a"}


def test_who_was_taken_over_sends_nothing_more_and_is_ended(store, put, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(keeping, "_end_this_program", ended.set)
    sign = {"token": "other", "who": "elsewhere, pid 1", "runs": True, "beats": 1}
    address = store(f"run/{SIGN}")

    def be_taken_over():
        with work(store("run")) as folder:
            (folder / "a").write_text("1")
            for _ in range(100):  # this program may be about to overwrite it
                put(address, json.dumps(sign).encode())
                if ended.wait(0.1):
                    return

    with pytest.raises(RunStoppedError, match="another program has taken over"):
        be_taken_over()
    assert names(store("run")) == set()
    assert json.loads(urls.file_system(address).cat_file(urls.key_of(address))) == sign


def test_an_error_of_the_work_stays_the_error_and_what_was_made_is_sent(store):
    def fail():
        with work(store("run")) as folder:
            (folder / "a").write_text("1")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(store("run")) == {"a"}


def test_a_store_out_of_reach_at_the_end_is_said_and_nothing_is_lost(monkeypatch):
    def fail(*_):
        raise urls.StoreError("memory://b/run: out of reach.")

    with monkeypatch.context() as patch:
        patch.setattr(sending, "put_file", fail)
        with pytest.raises(UserError, match=r"out of reach\. 1 files are not sent, such as a"):
            begin("memory://b/run", "a")
    begin("memory://b/run")
    assert names("memory://b/run") == {"a"}


def test_a_store_that_refuses_is_said_at_the_start(s3):
    with pytest.raises(urls.NothingThereError, match=r"s3://nowhere/run.*bucket does not exist"):
        begin("s3://nowhere/run")


def test_parts_have_writers_of_their_own(store):
    with (
        keeping.keeping(store("out"), "part_0") as first,
        keeping.keeping(store("out"), "part_1") as second,
    ):
        (first / "a").write_text("1")
        (second / "b").write_text("2")
    with keeping.keeping(store("out"), "part_0") as first:
        assert {path.name for path in first.glob("[!.]*")} == {"a", "b"}


def test_a_folder_below_another_is_no_part_of_it(store):
    begin(store("runs/one"), "a")
    with work(store("runs")) as folder:
        (folder / "b").write_text("1")
    assert not kept_folder(store("runs/one"), "train").is_relative_to(folder)
    assert names(store("runs")) >= {"b", "one/a"}


def test_copies_of_several_uses_do_not_meet(store):
    assert kept_folder(store("run"), "train") != copies.place("read", store("run"))


def write_step(folder, step):
    path = folder / "checkpoints" / str(step)
    path.mkdir(parents=True)
    for name in ("x", sending.STEP_MARK):
        (path / name).write_text(str(step))


def steps_of(folder):
    return {path.name for path in (folder / "checkpoints").iterdir()}


def send_two_steps_of_three(url, monkeypatch):
    with work(url) as folder:
        (folder / "events").write_text("1")
        write_step(folder, 1)
        write_step(folder, 2)
    with monkeypatch.context() as patch:
        kill(patch)
        with work(url) as folder:
            write_step(folder, 3)


def test_who_removes_the_newest_step_of_a_store_goes_back(store, monkeypatch, caplog):
    send_two_steps_of_three(store("run"), monkeypatch)
    system = urls.file_system(store("run"))
    for name in ("x", sending.STEP_MARK):
        system.rm_file(urls.key_of(store(f"run/checkpoints/2/{name}")))
    with work(store("run")) as folder:
        assert steps_of(folder) == {"1"}
    assert "lost its newest checkpoint since, so it goes back; what an older program" in caplog.text
    aside = folder.with_name(f"{folder.name}.unsent_1")
    assert steps_of(aside) == {"1", "2", "3"}  # nothing is lost


def test_other_objects_may_be_removed_from_a_store(store, monkeypatch):
    send_two_steps_of_three(store("run"), monkeypatch)
    system = urls.file_system(store("run"))
    for name in ("events", "checkpoints/1/x", f"checkpoints/1/{sending.STEP_MARK}"):
        system.rm_file(urls.key_of(store(f"run/{name}")))
    with work(store("run")) as folder:
        assert steps_of(folder) == {"1", "2", "3"}
    assert f"checkpoints/3/{sending.STEP_MARK}" in names(store("run"))


def test_a_crash_file_alone_pushes_no_copy_aside(store, monkeypatch):
    begin(store("run"), "a")
    (kept_folder(store("run"), "train") / "crash_process_0.txt").write_text("refused")
    monkeypatch.setenv("XDG_CACHE_HOME", f"{os.environ['XDG_CACHE_HOME']}_other")
    begin(store("run"), "b")
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ["XDG_CACHE_HOME"].removesuffix("_other"))
    with work(store("run")) as folder:
        assert (folder / "b").exists()
    assert not list(folder.parent.glob("*.unsent_*"))
