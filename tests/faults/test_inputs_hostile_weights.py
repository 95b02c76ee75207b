"""Weight files that attack: refused by name, and nothing of theirs is run or unpacked."""

import contextlib
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from fuzzing import measured_memory

from tpgdiff_jax.checkpoints import convert, published, released
from tpgdiff_jax.checkpoints.storing import FORMAT
from tpgdiff_jax.reporting.errors import UserError

_LITTLE = 48  # MiB that refusing may cost


@contextlib.contextmanager
def refused_cheaply(match):
    """Check that the block raises UserError, and takes little memory to find that out."""
    with measured_memory() as growth, pytest.raises(UserError, match=match):
        yield
    assert growth() < _LITTLE


@pytest.fixture(scope="module")
def torch():
    """PyTorch, which only reading and writing its files needs."""
    return pytest.importorskip("torch")


def _archive(pickled: bytes, packing: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    """Return an archive as PyTorch writes them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packing, compresslevel=9) as archive:
        contents = {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little"}
        for name, data in {**contents, **records}.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


class Payload:
    """What a hostile pickle would call, with what."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("call", "asked"),
    [
        ((os.system,), r"posix\.system"),
        ((eval,), r"(__builtin__|builtins)\.eval"),
        ((exec,), r"(__builtin__|builtins)\.exec"),
    ],
)
def test_code_in_a_pickle_does_not_run(tmp_path, torch, name, call, asked):
    victim = tmp_path / "made"
    text = f"touch {victim}" if call[0] is os.system else f"open({str(victim)!r}, 'w')"
    pickled = pickle.dumps({"G": Payload(*call, text)}, 2)
    for data in (pickled, _archive(pickled)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name} is refused: it asks for {asked}"):
            released.read(tmp_path / name)
    assert not victim.exists()


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path, torch):
    path = tmp_path / "bomb.pth"
    packed = _archive(b"\x80\x02}.", zipfile.ZIP_DEFLATED, **{"data/0": bytes(300 * 2**20)})
    path.write_bytes(packed)
    with refused_cheaply(r"bomb\.pth is refused: .*unpack"):
        released.read(path)


def test_tensors_that_claim_more_than_their_file_holds_are_refused(tmp_path, torch):
    path = tmp_path / "claims.pth"
    one = torch.zeros(1)
    torch.save({"init_conv.weight": one.expand(2**40)}, path)
    with refused_cheaply(r"claims\.pth is refused.*claim"):
        released.read(path)


def test_tensors_of_storage_that_is_not_there_are_refused(tmp_path, torch):
    path = tmp_path / "absent.pth"
    buffer = io.BytesIO()
    torch.save({"init_conv.weight": torch.zeros(7)}, buffer)
    with zipfile.ZipFile(buffer) as archive:
        pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    huge = pickled.replace(b"K\x07", b"\x8a\x06" + (2**40).to_bytes(6, "little"))
    assert huge != pickled
    path.write_bytes(_archive(huge, **{"data/0": bytes(28)}))
    with refused_cheaply(r"absent\.pth is"):
        released.read(path)


@pytest.mark.parametrize("form", ["archive", "old"])
def test_a_tuple_that_holds_itself_again_and_again_is_refused(tmp_path, torch, form):
    """As a key it would be walked through 2**80 times, where not even Ctrl-C comes through."""
    pickled = b"\x80\x02}()q\x00" + b"h\x00\x86q\x00" * 80 + b"K\x01u."
    path = tmp_path / "tuples.pth"
    path.write_bytes(_archive(pickled) if form == "archive" else pickled)
    with pytest.raises(UserError, match=r"tuples\.pth is refused: it holds a tuple of more parts"):
        released.read(path)


def test_names_that_count_without_end_are_refused():
    weights = {"init_conv.weight": np.zeros((8, 6, 7, 7)), "downs.0.x": np.zeros(1)}
    with pytest.raises(UserError, match=r"go up to number 999999999, but 1 is missing"):
        convert.convert({**weights, "downs.999999999.x": np.zeros(1)}, "unet")


_HEADERS = {
    "a size beyond the file": {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
    "sizes that overflow": {"a": {"dtype": "F32", "shape": [2**63, 4], "data_offsets": [0, 16]}},
    "an overlap": {
        "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
    },
    "a gap": {"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}},
    "an unknown type": {"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}},
    "a wrong shape": {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}},
    "a negative size": {"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 16]}},
    "no entry": {"a": None},
    "a list": [1, 2],
}
_READERS = {"convert": released.read, "load": published.load, "system": published.load_system}


@pytest.mark.parametrize("reader", _READERS)
@pytest.mark.parametrize("what", [*_HEADERS, "a header without end", "a header of depths"])
def test_absurd_headers_of_safetensors_are_refused(tmp_path, what, reader):
    path = tmp_path / "absurd.safetensors"
    text = json.dumps(_HEADERS.get(what, {})).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(16)
    if what == "a header without end":
        data = struct.pack("<Q", 2**63) + data[8:]
    elif what == "a header of depths":
        data = struct.pack("<Q", 200_000) + b"[" * 200_000
    path.write_bytes(data)
    with refused_cheaply(r"absurd\.safetensors is (damaged|not in the format)"):
        _READERS[reader](path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000])
def test_a_description_that_nests_without_end_is_refused(tmp_path, text):
    path = tmp_path / "deep.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(1)}, {"description": text}))
    for read in (published.load, published.load_system):
        with pytest.raises(UserError, match=r"deep\.safetensors: its description is damaged"):
            read(path)


@pytest.mark.parametrize(
    "dtype", ["F8_E4M3", "F8_E5M2", "BF16", "BOOL", "U64", "C64", "F4", "F6_E2M3"]
)
def test_every_number_type_is_read_or_refused_by_name(tmp_path, dtype):
    path = tmp_path / "typed.safetensors"
    size = {"BF16": 2, "U64": 8, "C64": 8}.get(dtype, 1)
    entry = {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * size]}
    text = json.dumps({"init_conv.weight": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * size))
    if dtype in ("BF16", "BOOL", "U64"):
        (found,), _ = released.read(path)
        with pytest.raises(UserError, match=r"This is no UNet|init_conv\.weight has the shape"):
            convert.convert(found.state_dict, found.part)
    else:
        with pytest.raises(
            UserError, match=r"typed\.safetensors (is damaged|holds numbers)|complex"
        ):
            _convert(path)


def _convert(path):
    for found in released.read(path)[0]:
        convert.convert(found.state_dict, found.part)


def test_names_that_lie_within_one_another_are_refused(tmp_path):
    path, description = tmp_path / "within.safetensors", {"format": FORMAT, "parts": {}}
    arrays = {"unet/a": np.zeros(1), "unet/a/kernel": np.zeros(1)}
    path.write_bytes(safetensors.numpy.save(arrays, {"description": json.dumps(description)}))
    with pytest.raises(UserError, match=r"within\.safetensors is damaged: unet/a is an array and"):
        published.load(path)
