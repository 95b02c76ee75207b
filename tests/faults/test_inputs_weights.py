"""Weight files that somebody made to break us: damaged, hostile, or with absurd claims."""

import io
import json
import pathlib
import pickle
import random
import re
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
from fuzzing import cases, endure, mutated
from strangers import changed

from tpgdiff_jax.checkpoints import convert, published, released
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.config import base_config
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.reporting.errors import UserError

_KEYS = pathlib.Path(__file__).parents[1] / "golden" / "keys"
_WEIGHTS = {
    "init_conv.weight": np.zeros((2, 6, 7, 7), np.float32),
    "downs.0.x": np.zeros(3, np.float16),
    "downs.0.y": np.zeros((2, 2), np.int64),
}


@pytest.fixture(scope="module")
def torch():
    """PyTorch, which only reading and writing its files needs."""
    return pytest.importorskip("torch")


def _saved(torch, **options) -> bytes:
    tensors = {name: torch.from_numpy(array) for name, array in _WEIGHTS.items()}
    buffer = io.BytesIO()
    torch.save({"G": tensors, "epoch": 3, "best": np.float64(1.5)}, buffer, **options)
    return buffer.getvalue()


def _read_all(path: pathlib.Path) -> None:
    for found in released.read(path)[0]:
        convert.convert(found.state_dict, found.part, found.config)


@cases(60, 12_000)
@pytest.mark.parametrize("kind", ["archive", "old", "safetensors"])
def test_files_of_other_programs_with_anything_done_to_their_bytes(
    kind, cases, figure, tmp_path, torch
):
    good = {
        "archive": [_saved(torch), _saved(torch, pickle_protocol=4)],
        "old": [
            _saved(torch, _use_new_zipfile_serialization=False),
            pickle.dumps({"G": {"init_conv.weight": [1, 2]}}, 2),
        ],
        "safetensors": [safetensors.numpy.save(_WEIGHTS)],
    }[kind]
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")

    def attack(rng: random.Random) -> None:
        path.write_bytes(mutated(rng, good))
        _read_all(path)

    figure(f"weights, {kind}: {endure(range(cases), attack, UserError)}")


def _shapes(name: str) -> dict[str, np.ndarray]:
    shapes = json.loads((_KEYS / f"{name}.json").read_text())
    return {key: np.broadcast_to(np.float32(0.5), shape) for key, shape in shapes.items()}


def _renumbered(rng: random.Random, key: str) -> str:
    return re.sub(r"\d+", lambda m: rng.choice((m[0], str(rng.randrange(12)), "99999")), key)


def _other_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """Return an array of another size, number of axes, or type."""
    choice = rng.randrange(5)
    if choice == 0:
        return np.zeros([rng.choice((0, 1, 2, 3, 5)) for _ in array.shape], np.float32)
    if choice == 1:
        return np.zeros([rng.choice((0, 1, 4)) for _ in range(rng.randrange(6))], np.float32)
    if choice == 2:
        return np.broadcast_to(np.float32(1), (2 ** rng.randrange(20), *array.shape[1:]))
    kinds = (np.array("x"), np.zeros(1, bool), np.zeros(1, np.complex64), np.full(1, np.nan))
    return np.broadcast_to(rng.choice(kinds), rng.choice((array.shape, (1, 1))))


@cases(3, 150)
@pytest.mark.parametrize(
    ("name", "part"),
    [("structure", "structure"), ("prior_tiny", "priors"), ("unet_nf32_noprior", "unet")],
)
def test_state_dicts_with_other_names_sizes_and_types(name, part, cases, figure):
    good = _shapes(name)

    def attack(rng: random.Random) -> None:
        state_dict = dict(good)
        for _ in range(rng.choice((1, 1, 2, 4))):
            key = rng.choice(list(state_dict))
            array = state_dict.pop(key)
            if rng.random() < 0.8:
                state_dict[_renumbered(rng, key)] = rng.choice((array, _other_array(rng, array)))
        convert.convert(state_dict, part, None)

    # Most of a case's time is the tracing of a whole network.
    found = endure(range(cases), attack, UserError, seconds=20, mebibytes=512)
    figure(f"state dicts, {part}: {found}")


@cases(40, 10_000)
@pytest.mark.parametrize("kind", ["depth", "segmentation", "clip"])
def test_settings_beside_weights_that_are_anything(kind, cases, figure, tmp_path):
    own = {
        "depth": {"backbone_config": {"out_indices": [1, 2], "hidden_act": "gelu"}},
        "segmentation": {"num_attention_heads": [1, 1], "strides": [4, 2]},
        "clip": {"vision_config": {"num_attention_heads": 2, "hidden_act": "gelu"}},
    }[kind]
    model_type = {"depth": "depth_anything", "segmentation": "segformer"}.get(kind, kind)
    own |= {"model_type": model_type, "reassemble_factors": [4, 2]}
    open_clip = {"model_cfg": {"quick_gelu": True, "vision_cfg": {"width": 128, "head_width": 32}}}
    first = {
        "depth": "backbone.embeddings.x",
        "segmentation": "segformer.x",
        "clip": "visual.conv1.weight",
    }[kind]
    (tmp_path / "model.safetensors").write_bytes(safetensors.numpy.save({first: np.zeros(1)}))
    modules_for = convert._PARTS[kind].modules_for
    shapes = {
        "depth": {
            "backbone.embeddings.patch_embeddings.projection.weight": (32, 3, 14, 14),
            "backbone.embeddings.position_embeddings": (1, 17, 32),
            **{f"neck.convs.{level}.weight": (8, 8, 3, 3) for level in range(2)},
            "backbone.encoder.layer.0.x": (1,),
            "head.conv2.weight": (4, 4, 3, 3),
        },
        "segmentation": {
            "segformer.encoder.patch_embeddings.0.proj.weight": (8, 3, 7, 7),
            "decode_head.linear_fuse.weight": (8, 8, 1, 1),
            "decode_head.classifier.weight": (150, 8, 1, 1),
        },
        "clip": {
            "conv1.weight": (64, 3, 4, 4),
            "positional_embedding": (17, 64),
            "proj": (64, 32),
        },
    }[kind]

    def attack(rng: random.Random) -> None:
        is_open_clip = kind == "clip" and rng.random() < 0.3
        for name in ("config.json", "open_clip_config.json"):
            (tmp_path / name).unlink(missing_ok=True)
        name = "open_clip_config.json" if is_open_clip else "config.json"
        text = json.dumps(changed(rng, open_clip if is_open_clip else own)).encode()
        (tmp_path / name).write_bytes(mutated(rng, [text]) if rng.random() < 0.3 else text)
        modules_for(shapes, released.read(tmp_path)[0][0].config)

    figure(f"settings, {kind}: {endure(range(cases), attack, UserError)}")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """An export file of a tiny system: (header, description, bytes behind the header)."""
    config = base_config()
    config.model.update({"width": 16, "multipliers": (2, 2), "attention_heads": 1, "head_dim": 16})
    config.priors.update({"encoder_width": 4, "map_size": 16, "map_width": 2, "map_max_width": 4})
    config.priors.update({"tokens": 4, "connector_depth": 0})
    model = tpgdiff.build(config)
    networks = {"unet": model.unet, "structure": model.structure, "encoder": model.encoder}
    weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape), abstract_params(networks))
    path = tmp_path_factory.mktemp("export") / "a.safetensors"
    published.save(path, weights, published.describe(config))
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["description"]), data[8 + length :]


def _file_of(header: dict, body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


@cases(30, 6_000)
@pytest.mark.parametrize("kind", ["header", "bytes"])
def test_export_files_with_other_headers(kind, cases, figure, tmp_path, export):
    header, _, body = export
    small = {name: header[name] for name in ("__metadata__", *list(header)[:9])}
    end = max(entry["data_offsets"][1] for entry in list(small.values())[1:])
    whole, path = _file_of(header, body)[:60_000], tmp_path / "a.safetensors"

    def attack(rng: random.Random) -> None:
        data = mutated(rng, [whole])
        if kind == "header":
            data = _file_of(changed(rng, changed(rng, small)), body[:end])
        path.write_bytes(data)
        published.load(path)
        published.fingerprint(path)

    figure(f"export files, {kind}: {endure(range(cases), attack, UserError)}")


@cases(6, 300)
def test_export_files_whose_description_is_anything(cases, figure, tmp_path, export):
    header, description, body = export
    path = tmp_path / "a.safetensors"

    def attack(rng: random.Random) -> None:
        said = description
        for _ in range(rng.choice((1, 1, 2, 4))):
            said = changed(rng, said)
        path.write_bytes(
            _file_of(header | {"__metadata__": {"description": json.dumps(said)}}, body)
        )
        published.load_system(path)

    found = endure(range(cases), attack, UserError, seconds=20, mebibytes=512)
    figure(f"export files, description: {found}")
