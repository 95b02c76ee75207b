"""Files go when they are old."""

import os
import time

from tpgdiff_jax.app.store import Store


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
