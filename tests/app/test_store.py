"""Visitors' files: shared by nobody, gone when they are old, never half there."""

import errno
import os
import pathlib
import shutil
import time

import pytest

from tpgdiff_jax.app.store import Store
from tpgdiff_jax.reporting.errors import UserError


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def _uploaded(store, content=b"picture"):
    """Lay a file as the web server does, which names it by its content."""
    path = store.uploads / "hash" / "a.png"
    path.parent.mkdir(exist_ok=True)
    (store.uploads / "part").write_bytes(content)
    os.rename(store.uploads / "part", path)
    return path


def test_old_files_are_swept_and_new_ones_kept(tmp_path):
    store = Store(tmp_path, seconds=3600)
    old, new = store.put("me", b"old", "a.png"), store.put("me", b"new", "b.png")
    store._held[old] = store._held[old].__class__(
        **{**vars(store._held[old]), "since": time.monotonic() - 3601}
    )
    (store.uploads / "x").mkdir()
    for name, age in (("left", 3700), ("fresh", 10)):
        path = store.uploads / "x" / name
        path.write_bytes(b"?")
        os.utime(path, (time.time() - age,) * 2)
    (store.uploads / "link").symlink_to(tmp_path / "nowhere")
    os.utime(store.uploads / "link", (0, 0), follow_symlinks=False)
    store.sweep()
    assert store.find(old) is None
    assert store.find(new).path.read_bytes() == b"new"
    assert [path.name for path in store.uploads.glob("**/*")] == ["x", "fresh"]


def test_others_on_this_machine_cannot_read_the_files(tmp_path):
    store = Store(tmp_path / "page", seconds=1)
    held = store.find(store.put("me", b"mine", "a.png"))
    for folder in (store.uploads, held.path.parent, held.path.parent.parent):
        assert folder.stat().st_mode & 0o077 == 0


def test_tokens_are_long_and_never_the_same(tmp_path):
    store = Store(tmp_path, seconds=1)
    tokens = {store.put("me", b"", "a.png") for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 32


def test_colleagues_who_send_the_same_file_at_once_all_have_it(tmp_path):
    store = Store(tmp_path, seconds=3600)
    paths = [_uploaded(store) for _ in range(3)]
    tokens = [store.take(f"visitor {n}", path, "a.png") for n, path in enumerate(paths)]
    store.close("visitor 1")
    assert [store.find(tokens[n]).path.read_bytes() for n in (0, 2)] == [b"picture"] * 2
    for n in (0, 2):
        store.close(f"visitor {n}")
    assert _files(tmp_path) == []


def test_an_upload_that_is_sent_anew_is_there_to_be_taken_again(tmp_path):
    store = Store(tmp_path, seconds=3600)
    first = store.take("me", _uploaded(store), "a.png")
    path = _uploaded(store)
    store.drop(first)
    again = store.take("me", path, "a.png")
    assert store.find(again).path.read_bytes() == b"picture"


@pytest.mark.parametrize("can_link", [True, False])
def test_what_was_taken_counts_as_often_as_it_lies_on_the_disk(tmp_path, monkeypatch, can_link):
    if not can_link:
        monkeypatch.setattr(os, "link", _full)
    store = Store(tmp_path, seconds=3600)
    path = _uploaded(store, bytes(10**6))
    token = store.take("me", path, "a.png")
    assert store.find(token).path.read_bytes() == bytes(10**6)
    assert store.held_bytes() // 10**6 == (1 if can_link else 2)


def _full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def _half(path, data):
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    _full()


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(tmp_path, monkeypatch):
    store = Store(tmp_path, seconds=3600)
    path = _uploaded(store)
    monkeypatch.setattr(os, "link", _full)
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: _half(target, b"pict"))
    monkeypatch.setattr(pathlib.Path, "write_bytes", _half)
    for keep in (lambda: store.put("me", bytes(100), "b.png"), lambda: store.take("me", path, "b")):
        with pytest.raises(UserError, match=r"^b.*cannot keep it \(No space left on device\); try"):
            keep()
    assert _files(tmp_path) == [path]
    assert not list((tmp_path / "kept").iterdir())


def test_folders_that_somebody_cleaned_away_are_made_again(tmp_path):
    store = Store(tmp_path / "page", seconds=3600)
    for use in (lambda: store.put("me", b"", "a.png"), store.sweep, store.clear):
        shutil.rmtree(tmp_path / "page")
        use()
        for folder in (tmp_path / "page", store.uploads, tmp_path / "page" / "kept"):
            assert folder.stat().st_mode & 0o077 == 0
