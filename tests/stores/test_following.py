"""Machines that follow another one's run: what they copy, and what they send."""

import re
import time

import pytest

from tpgdiff_jax.stores import copies, following, sending, urls

OWN = re.compile(r"(.*/)?(bad_|skipped_)[^/]*")


def follow(url):
    return following.following(url, sending.complete_steps, OWN)


def content(url):
    return urls.file_system(url).cat_file(urls.key_of(url))


def test_they_send_what_they_alone_know(store, put):
    put(store("run/config.json"), b"{}")
    with follow(store("run")) as folder:
        assert folder == following.followed_folder(store("run"))
        assert (folder / "config.json").read_text() == "{}"
        (folder / "weights.safetensors").write_text("written by each machine for itself")
        (folder / "priors").mkdir()
        (folder / "priors" / "bad_3_1.json").write_text("bad")
    assert set(copies.listing(store("run"))) == {"config.json", "priors/bad_3_1.json"}


def test_what_others_wrote_meanwhile_stays(store, put):
    put(store("run/skipped_there.jsonl"), b"one")
    with follow(store("run")) as folder:
        put(store("run/skipped_there.jsonl"), b"one two")
        (folder / "skipped_here.jsonl").write_text("three")
    assert content(store("run/skipped_there.jsonl")) == b"one two"
    assert content(store("run/skipped_here.jsonl")) == b"three"


@pytest.mark.parametrize("ends", ["killed", "store gone"])
def test_what_was_not_sent_is_sent_at_the_next_start(store, put, monkeypatch, caplog, ends):
    put(store("run/config.json"), b"{}")

    def refuse(*_):
        raise urls.StoreError("out of reach.")

    with monkeypatch.context() as patch, follow(store("run")) as folder:
        (folder / "skipped_here.jsonl").write_text("skipped")
        patch.setattr(following, "_send" if ends == "killed" else "put_file", refuse)
    assert "out of reach. What this machine alone knows is in" in caplog.text
    with follow(store("run")):
        assert content(store("run/skipped_here.jsonl")) == b"skipped"
        assert (folder / "skipped_here.jsonl").read_text() == "skipped"


def test_what_grows_is_sent_while_it_grows(store, put, monkeypatch):
    monkeypatch.setattr(following, "SECONDS", 0.02)
    put(store("run/config.json"), b"{}")
    with follow(store("run")) as folder:
        (folder / "skipped_here.jsonl").write_text("one")
        deadline = time.monotonic() + 20
        while "skipped_here.jsonl" not in copies.listing(store("run")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert content(store("run/skipped_here.jsonl")) == b"one"
