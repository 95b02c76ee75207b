"""Which weights are loaded, how they are named, and what is said where they cannot be used."""

import json
import pathlib
import types

import jax
import numpy as np
import pytest

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.commands import modes
from tpgdiff_jax.inference import job, plan
from tpgdiff_jax.inference import weights as default
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.sampling import Sampling

PHOTO = np.random.default_rng(0).integers(60, 200, (40, 48, 3), np.uint8)


@pytest.fixture
def save(restorer):
    """`save(path, dtype="float32")`: publish the tiny system's weights."""

    def write(path, dtype="float32"):
        params = jax.device_get(restorer._variables["params"])
        return published.save(path, params, published.describe(restorer.config), dtype)

    return write


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A folder that stands for the package's own weights, empty."""
    folder = tmp_path / "assets"
    monkeypatch.setattr(default, "DEFAULT_WEIGHTS", folder / "default.safetensors")
    return folder


def test_without_a_path_the_weights_of_the_package_are_loaded(restorer, save, assets):
    save(default.DEFAULT_WEIGHTS, "float16")
    assert pathlib.Path(default.__file__).parent.parent / "assets" == published.ASSETS
    found = [Restorer.load(*path, compile_cache=False) for path in ((), ("default",))]
    assert found[0].fingerprint == found[1].fingerprint
    np.testing.assert_allclose(found[0](PHOTO).astype(int), restorer(PHOTO), atol=2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, r"default\.safetensors is missing.*install it again"),
        (b"<html>no weights", r"default\.safetensors: .*a web page.*install it again"),
    ],
)
def test_weights_of_the_package_that_cannot_be_read_say_what_to_do(assets, content, words):
    if content is not None:
        assets.mkdir()
        default.DEFAULT_WEIGHTS.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        Restorer.load()


def test_restoring_needs_nothing_but_an_input(save, assets, photo_folder, monkeypatch, capsys):
    save(default.DEFAULT_WEIGHTS, "float16")
    monkeypatch.chdir(photo_folder)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    typed = {"input": ["0.png"], "output": None, "checkpoint": None, "format": ".png"}
    usual = {"batch_size": 4, "spatial": 1, "compile_cache": False, "side_by_side": False}
    usual["share"] = None
    options = {"guidance": [], "seed": 0, "steps": None, "sampler": None}
    modes.restore(types.SimpleNamespace(**typed, **usual), options)
    said = capsys.readouterr().out
    assert f"1 restored, 0 were there already, 0 failed: {photo_folder / 'restored'}" in said
    assert (photo_folder / "restored" / "0.png").is_file()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_description_log_and_benchmark_name_weights_alike(save, photo_folder, tmp_path, dtype):
    path = tmp_path / "weights.safetensors"
    save(path, dtype)
    said = json.loads(path.with_suffix(".json").read_text())["weights"]

    loaded = Restorer.load(path, compile_cache=False)
    output = tmp_path / "out"
    tasks = plan.plan([str(photo_folder / "0.png")], output)
    plan.check_output(output)
    job.run(loaded, tasks, output, sampling=loaded.checked(Sampling(steps=1)))
    logged = json.loads((output / "restored.jsonl").read_text())["weights"]

    config = loaded.config.copy_and_resolve_references().unlock()
    config.benchmark.root, config.benchmark.metrics = str(photo_folder.parent), ("psnr",)
    config.benchmark.exact = False
    clean = {"name": "noise", "folder": "photos", "layout": "clean", "gt": "", "sigma": 25.0}
    config.benchmark.sets = (clean,)
    flags = {"checkpoint": str(path), "predictions": None, "share": None, "merge": False}
    modes.benchmark(config, types.SimpleNamespace(**flags), tmp_path / "scores")
    scored = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert said == logged == scored["job"]["weights"] == loaded.fingerprint


@pytest.mark.parametrize(("is_fast", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_weights_of_bfloat16_compute_in_it_only_where_it_is_fast(
    restorer, tmp_path, monkeypatch, is_fast, expected
):
    path = tmp_path / "weights.safetensors"
    description = published.describe(restorer.config)
    description["model"]["dtype"] = "bfloat16"
    published.save(path, jax.device_get(restorer._variables["params"]), description)
    monkeypatch.setattr(default.native, "has_fast_bfloat16", lambda: is_fast)
    model, _, config, _ = default.load_suited(path)
    assert config.model.dtype == expected
    assert model.unet.dtype == expected
    assert default.load_suited(path, "float32")[2].model.dtype == "float32"
    with pytest.raises(ValueError, match="dtype='half' is unknown"):
        default.load_suited(path, "half")
