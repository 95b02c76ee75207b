"""A folder kept in a store: whatever is killed when, what is there can be gone on with."""

import errno
import json
import os

import pytest

from tpgdiff_jax.stores import copies, sending, urls
from tpgdiff_jax.stores.sending import STEP_MARK, Sender, complete_steps

URL = "memory://b/run"


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


PARTS = ("state/d/1", "state/manifest", "data/metadata", STEP_MARK)


def write_step(folder, step, content="x"):
    for name in PARTS:
        write(folder, f"checkpoints/{step}/{name}", f"{content} {step} {name}")


def remove_step(folder, step):
    for path in sorted((folder / "checkpoints" / str(step)).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "checkpoints" / str(step)).rmdir()


def stored(url=URL):
    system = urls.file_system(url)
    names = copies.listing(url)
    return {name: system.cat_file(urls.key_of(f"{url}/{name}")).decode() for name in names}


@pytest.fixture
def sender(tmp_path):
    """`sender(folder)` -> a sender without a thread of its own."""

    def make(folder, url=URL, removes=True):
        made = Sender(folder, url, "me", removes=removes)
        made.stop()
        return made

    return make


def test_the_store_follows_the_folder(tmp_path, sender, store):
    url = store("run")
    folder = tmp_path / "run"
    write(folder, "config.json", "{}")
    write(folder, ".lock", "")
    write(folder, "checkpoints/5.orbax-checkpoint-tmp/state/x", "half")
    write_step(folder, 4)
    sender(folder, url).send()
    assert set(stored(url)) == {
        "config.json",
        *(
            f"checkpoints/4/{n}"
            for n in ("state/d/1", "state/manifest", "data/metadata", STEP_MARK)
        ),
    }
    write(folder, "config.json", "{1}")
    write_step(folder, 6)
    remove_step(folder, 4)
    sender(folder, url).send()  # the next program: what was sent is noted in the folder
    assert stored(url)["config.json"] == "{1}"
    assert {sending.step_of(name) for name in stored(url)} == {"", "checkpoints/6"}


def test_what_has_not_changed_is_not_sent_again(tmp_path, sender, killed_after):
    folder = tmp_path / "run"
    write_step(folder, 4)
    sender(folder).send()
    with killed_after(0):
        sender(folder).send()
    assert sending.unsent(folder) == []


def test_others_objects_stay_where_files_are_only_added(tmp_path, sender, put):
    put(f"{URL}/theirs", b"1")
    write(tmp_path / "run", "ours", "2")
    sender(tmp_path / "run", removes=False).send()
    os.remove(tmp_path / "run" / "ours")
    sender(tmp_path / "run", removes=False).send()
    assert stored() == {"theirs": "1", "ours": "2"}


def check_steps(names):
    """Every step that counts is whole."""
    steps = {sending.step_of(name) for name in complete_steps(names)} - {""}
    for step in steps:
        assert sum(sending.step_of(name) == step for name in names) == 4
    return steps


@pytest.mark.parametrize("changes", range(16))
def test_killed_at_any_change_the_store_has_a_whole_step(tmp_path, sender, killed_after, changes):
    folder = tmp_path / "run"
    write_step(folder, 2)
    write(folder, "metrics.jsonl", "2\n")
    sender(folder).send()
    write_step(folder, 4)
    write_step(folder, 6)
    remove_step(folder, 2)
    write(folder, "metrics.jsonl", "2\n4\n6\n")
    with killed_after(changes):
        sender(folder).send()
    there = stored()
    assert check_steps(there)
    if "6" in there["metrics.jsonl"]:
        assert "checkpoints/6" in check_steps(there)
    sender(folder).send()
    assert check_steps(stored()) == {"checkpoints/4", "checkpoints/6"}
    assert stored()["metrics.jsonl"] == "2\n4\n6\n"


@pytest.mark.parametrize("changes", range(6))
def test_a_step_written_anew_is_never_a_mixture(tmp_path, sender, killed_after, changes):
    folder = tmp_path / "run"
    write_step(folder, 2)
    write_step(folder, 4)
    sender(folder).send()
    remove_step(folder, 4)
    write_step(folder, 4, "another")
    with killed_after(changes):
        sender(folder).send()
    found = complete_steps(stored())
    parts = [text for name, text in stored().items() if name in found and "/4/" in name]
    assert len({text.split()[0] for text in parts}) <= 1
    assert any("/2/" in name for name in found)


@pytest.mark.parametrize("changes", range(2))
def test_a_step_that_gets_one_more_file_stays_whole(tmp_path, sender, killed_after, changes):
    folder = tmp_path / "run"
    write_step(folder, 2)
    sender(folder).send()
    write(folder, "checkpoints/2/checksums.json", "{}")
    with killed_after(changes):
        sender(folder).send()
    assert any("/2/" in name for name in complete_steps(stored()))


def test_the_newest_step_is_sent_first(tmp_path, sender, killed_after):
    for step in (8, 10, 9):
        write_step(tmp_path / "run", step)
    with killed_after(4):
        sender(tmp_path / "run").send()
    assert check_steps(stored()) == {"checkpoints/10"}


def test_a_step_removed_while_it_is_sent_does_not_count(tmp_path, sender, monkeypatch, caplog):
    folder = tmp_path / "run"
    write_step(folder, 2)
    real = sending.put_file

    def put_file(path, url):
        if path.name == "manifest":
            remove_step(folder, 2)
        return real(path, url)

    monkeypatch.setattr(sending, "put_file", put_file)
    monkeypatch.setattr(sending, "_THREADS", 1)
    sender(folder).send()
    assert not check_steps(stored())
    assert "raise config.checkpoint.keep" in caplog.text
    sender(folder).send()
    assert stored() == {}


def test_a_log_that_grows_while_it_is_sent_is_sent_again(tmp_path, sender, monkeypatch):
    folder = tmp_path / "run"
    write(folder, "a.jsonl", "1\n")
    real = sending.put_data

    def put_data(url, data):
        with (folder / "a.jsonl").open("a") as file:
            file.write("2\n")
        real(url, data)

    one = sender(folder)
    with monkeypatch.context() as patch:
        patch.setattr(sending, "put_data", put_data)
        one.send()
    assert stored() == {"a.jsonl": "1\n"}
    one.send()
    assert stored() == {"a.jsonl": "1\n2\n"}


def test_large_files_are_sent_in_parts(tmp_path, sender, s3, monkeypatch):
    monkeypatch.setattr(sending, "_IN_MEMORY", 100)
    (tmp_path / "run").mkdir()
    content = os.urandom(6 << 20)
    (tmp_path / "run" / "weights").write_bytes(content)
    sender(tmp_path / "run", s3("run")).send()
    assert copies.local(s3("run/weights")).read_bytes() == content


def test_the_thread_sends_and_goes_on_after_an_outage(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sending, "SECONDS", 0.02)
    write(tmp_path / "run", "a", "1")
    full = OSError(errno.ENOSPC, "No space left on device")
    real, outages = sending.put_data, [full, *[urls.StoreError("out of reach")] * 2]

    def put_data(url, data):
        if outages:
            raise outages.pop()
        real(url, data)

    monkeypatch.setattr(sending, "put_data", put_data)
    one = Sender(tmp_path / "run", URL, "me", removes=True)
    for _ in range(500):
        if urls.file_system(URL).exists("/b/run/a"):
            break
        one._thread.join(0.02)
    one.stop()
    assert stored() == {"a": "1"}
    assert caplog.text.count("out of reach It is tried again") == 2
    assert "No space left on device" in caplog.text  # of this machine: here, too, it goes on
    assert json.loads((tmp_path / "run" / ".sent.json").read_text())["writer"] == "me"
