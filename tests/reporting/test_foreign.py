"""Files that are not what their names say: what they are, and the way out."""

import io
import pickle

import pytest

from tpgdiff_jax.checkpoints.storing import opened
from tpgdiff_jax.reporting.foreign import HEAD_BYTES, foreign


def _of_pytorch(is_new: bool) -> bytes:
    torch = pytest.importorskip("torch")
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=is_new)
    return buffer.getvalue()


FILES = {
    "pth": (lambda: _of_pytorch(True), "PyTorch .*--mode=convert"),
    "old_pth": (lambda: _of_pytorch(False), "PyTorch.*--mode=convert"),
    "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    "page": (lambda: b"<!doctype html><html>", "web page"),
    "empty": (lambda: b"", r"empty file \(0 bytes\)"),
    "archive": (lambda: b"PK\3\4" + bytes(99), "archive"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_taken_for_weights_is_named(tmp_path, name):
    make, words = FILES[name]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(make())
    with (
        pytest.raises(ValueError, match=rf"weights\.safetensors: not published.*{words}"),
        opened(path),
    ):
        pass


def test_other_files_are_not_guessed_at():
    for data in (b"", b"text", pickle.dumps([1]), b"\x89PNG\r\n\x1a\n", bytes(HEAD_BYTES)):
        assert foreign(data) is None
