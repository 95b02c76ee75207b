"""The same on a server that speaks Google's protocol; slow, and it needs the emulator."""

import importlib.util

import fsspec
import pytest

from tpgdiff_jax.stores import copies, urls
from tpgdiff_jax.stores.keeping import keeping
from tpgdiff_jax.stores.writer import WriterError

pytestmark = pytest.mark.slow


@pytest.fixture
def gs(free_address, monkeypatch):
    """`gs(name)` -> the address of a name in an empty bucket of a server on this machine."""
    for package in ("gcsfs", "gcp_storage_emulator"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is missing: pip install gcsfs gcp-storage-emulator")
    from gcp_storage_emulator.server import create_server

    host, _, port = free_address.partition(":")
    server = create_server(host, int(port), in_memory=True, default_bucket="ours")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{free_address}")
    urls._opened.cache_clear()
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    yield lambda name: f"gs://ours/{name}"
    urls._opened.cache_clear()
    server.stop()


def test_a_folder_is_kept_and_gone_on_with_elsewhere(gs, another_machine):
    with keeping(gs("run"), "train", is_whole=True) as folder:
        (folder / "a").write_text("1")
        (folder / "log.jsonl").write_text("{}\n")
        (folder / "large").write_bytes(bytes(6 << 20))
        another_machine()
        with pytest.raises(WriterError, match="another program writes there"):
            keeping(gs("run"), "train", is_whole=True).__enter__()
    with keeping(gs("run"), "train", is_whole=True) as folder:
        assert (folder / "a").read_text() == "1"
        (folder / "a").unlink()
    assert set(copies.listing(gs("run"))) == {".tpgdiff_jax/train.json", "large", "log.jsonl"}
    assert copies.local(gs("run/large")).stat().st_size == 6 << 20


def test_nothing_there_is_said(gs):
    with pytest.raises(urls.NothingThereError, match=r"gs://nowhere/x: "):
        copies.local("gs://nowhere/x")
