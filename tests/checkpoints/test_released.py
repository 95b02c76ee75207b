"""Files of the PyTorch world are read, recognised, or refused with a reason."""

import argparse
import importlib.util
import json
import os
import pickle

import numpy as np
import pytest
import safetensors.numpy

from tpgdiff_jax.checkpoints import released


class Payload:
    """What a hostile pickle would run."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


UNET = {"init_conv.weight": np.zeros((2, 6, 7, 7), np.float32), "downs.0.x": np.zeros(1)}


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path, torch, protocol):
    victim, path = tmp_path / "made_by_the_pickle", tmp_path / "evil.pth"
    torch.save({"G": Payload(victim)}, path, pickle_protocol=protocol)
    words = r"evil\.pth is refused: it asks for posix\.mkdir"
    with pytest.raises(ValueError, match=words) as error:
        released.read(path)
    assert "weights_only" not in str(error.value)  # no advice to run it after all
    path.write_bytes(pickle.dumps({"G": Payload(victim)}, protocol))
    with pytest.raises(ValueError, match=r"refused: it asks for posix\.mkdir"):
        released.read(path)
    assert not victim.exists()


def test_damaged_files_are_named(tmp_path, torch, tensors):
    whole = tmp_path / "whole.pth"
    torch.save(tensors(UNET), whole)
    for name, data in (
        ("half.pth", whole.read_bytes()[: whole.stat().st_size // 2]),
        ("empty.pt", b""),
        ("text.pth", b"hello"),
        ("half.safetensors", safetensors.numpy.save(UNET)[:40]),
        ("text.safetensors", b"hello"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} is damaged"):
            released.read(path)
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        released.read(tmp_path / "nothing.pth")


def test_what_training_programs_store_beside_weights_is_listed(tmp_path, torch, tensors):
    path = tmp_path / "run.pth"
    content = {
        "G": tensors(UNET, "module."),
        "epoch": 3,
        "best": np.float64(31.5),
        "args": argparse.Namespace(lr=1e-4),
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save(content, path)
    found, others = released.read(path)
    assert [item.part for item in found] == ["unet"]
    assert found[0].state_dict.keys() == UNET.keys()
    assert others == {
        "epoch": "int",
        "best": "float64",
        "args": "Namespace",
        "optimizer": "dict",
    }


def test_the_structural_prior_is_separated_from_its_networks(tmp_path):
    names = ("modality_embed", "depth_extractor.model.head.x", "seg_extractor.model.decode_head.y")
    path = tmp_path / "sp.safetensors"
    safetensors.numpy.save_file({name: np.zeros(1, np.float32) for name in names}, path)
    found, _ = released.read(path)
    assert {item.part: list(item.state_dict) for item in found} == {
        "structure": ["modality_embed"],
        "depth": ["head.x"],
        "segmentation": ["decode_head.y"],
    }


def test_half_precision_is_read(tmp_path, torch):
    path = tmp_path / "half.pth"
    torch.save({"init_conv.weight": torch.full((2,), 1.5, dtype=torch.bfloat16)}, path)
    (found,), _ = released.read(path)
    np.testing.assert_array_equal(found.state_dict["init_conv.weight"], [1.5, 1.5])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "holds no config.json"),
        ("{", "is no JSON"),
        ('{"model_type": "llama"}', "model_type='llama' is not supported"),
        ('{"model_type": "segformer"}', "holds none of model.safetensors"),
    ],
)
def test_folders_that_are_no_models_are_refused(tmp_path, config, words):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=words):
        released.read(tmp_path)


def test_a_folder_whose_settings_contradict_its_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    weights = {"vision_model.embeddings.class_embedding": np.zeros(2, np.float32)}
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"weights of 'clip'.*model_type='segformer'"):
        released.read(tmp_path)


def test_open_clip_folders_tell_their_activation_and_heads(tmp_path):
    model = {"quick_gelu": True, "vision_cfg": {"width": 128, "head_width": 32}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    weights = {"visual.conv1.weight": np.zeros((2, 3, 4, 4), np.float32)}
    safetensors.numpy.save_file(weights, tmp_path / "open_clip_model.safetensors")
    (found,), _ = released.read(tmp_path)
    assert found.part == "clip"
    settings = {"hidden_act": "quick_gelu", "num_attention_heads": 4}
    assert found.config["vision_config"] == settings


def test_unknown_weights_show_their_first_keys(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"layer.b": np.zeros(1), "layer.a": np.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"no known part.*First keys: layer\.a, layer\.b"):
        released.read(path)


def test_without_pytorch_pickles_say_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tpgdiff_jax\[convert\]"):
        released.read(path)
