"""Copies of objects: made once, made again where the store's has changed."""

import collections
import shutil

import pytest

from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores import copies, urls


def contents(folder):
    return {name: (folder / name).read_bytes() for name in copies.files_below(folder)}


@pytest.fixture
def copied(monkeypatch):
    """The names of objects in the order in which they were copied."""
    names = []
    real = urls.reaching

    def noted(url):
        names.append(url.rpartition("/")[2])
        return real(url)

    monkeypatch.setattr(copies.urls, "reaching", noted)
    return names


def test_objects_are_copied_once(store, put, copied):
    address = store("set")
    put(f"{address}/a.png", b"one")
    put(f"{address}/below/b.png", b"two")
    folder = copies.local(address)
    assert contents(folder) == {"a.png": b"one", "below/b.png": b"two"}
    copied.clear()
    assert copies.local(address) == folder
    assert copied == ["set"]  # the listing alone


def test_what_changed_is_copied_again_and_what_went_goes(store, put, copied):
    address = store("set")
    for name in ("a.png", "b.png", "below/c.png"):
        put(f"{address}/{name}", b"one")
    folder = copies.local(address)
    put(f"{address}/b.png", b"two")  # of the same size, in the same second
    urls.file_system(address).rm_file(urls.key_of(f"{address}/below/c.png"))
    copied.clear()
    assert contents(copies.local(address)) == {"a.png": b"one", "b.png": b"two"}
    assert copied == ["set", "b.png"]
    assert not (folder / "below").exists()


def test_a_single_object_is_a_file(store, put):
    put(store("w/weights.bin"), b"many")
    assert copies.local(store("w/weights.bin")).read_bytes() == b"many"
    assert copies.local(store("w/weights.bin")).read_bytes() == b"many"


def test_an_object_that_became_a_folder_is_one_here(store, put):
    put(store("x"), b"1")
    copies.local(store("x"))
    urls.file_system(store("x")).rm_file(urls.key_of(store("x")))
    put(store("x/y"), b"2")
    assert contents(copies.local(store("x"))) == {"y": b"2"}
    urls.file_system(store("x")).rm_file(urls.key_of(store("x/y")))
    put(store("x"), b"3")
    assert copies.local(store("x")).read_bytes() == b"3"


def test_names_that_are_no_files_are_left_out(s3, put, caplog):
    for name in ("a", "a/b", "c//d", "../e", "good"):
        put(s3(f"set/{name}"), b"1")
    bucket = urls.split(s3("set"))[1].partition("/")[0]
    marker = {"Bucket": bucket, "Key": "set/folder/", "Body": b""}  # as consoles make them
    urls.file_system(s3("set")).call_s3("put_object", **marker)
    assert set(copies.listing(s3("set"))) == {"a/b", "good"}
    assert "3 objects are left out" in caplog.text


def test_only_what_is_wanted_is_copied(store, put):
    put(store("set/a.png"), b"1")
    put(store("set/b.mov"), b"2")
    folder = copies.local(store("set"), lambda names: [n for n in names if n.endswith(".png")])
    assert set(contents(folder)) == {"a.png"}


def test_signs_of_programs_are_not_copied(store, put):
    put(store("run/.tpgdiff_jax/train.json"), b"{}")
    put(store("run/config.json"), b"{}")
    folder = copies.local(store("run"))
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_nothing_there_is_said(store, put):
    put(store("other"), b"1")
    with pytest.raises(urls.NothingThereError, match=r"mistyped: nothing lies there"):
        copies.local(store("mistyped"))


def test_a_local_path_is_itself(tmp_path):
    assert copies.local(tmp_path / "x") == tmp_path / "x"


def test_a_disk_that_is_too_small_is_said_before(put, monkeypatch):
    put("memory://b/big", b"12345678")
    usage = collections.namedtuple("usage", "free")(4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"its copy needs .* XDG_CACHE_HOME"):
        copies.local("memory://b/big")


def test_an_object_that_goes_while_it_is_copied_is_left_out(put, monkeypatch):
    put("memory://b/set/a", b"1")
    put("memory://b/set/b", b"2")
    real, calls = copies.listing, []

    def listing(url):
        found = real(url)
        if not calls:
            urls.file_system(url).rm_file("/b/set/a")
        calls.append(url)
        return found

    monkeypatch.setattr(copies, "listing", listing)
    assert contents(copies.local("memory://b/set")) == {"b": b"2"}
    assert len(calls) == 2
