"""Averages of published weights: of what, and of what not."""

import importlib
import pathlib

import jax
import numpy as np
import pytest

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.models import tpgdiff

LAUNCH = pathlib.Path(__file__).parent.parent.parent / "launch"


@pytest.fixture
def average_weights(monkeypatch):
    """The program, as a module."""
    monkeypatch.syspath_prepend(str(LAUNCH))
    return importlib.import_module("average_weights")


@pytest.fixture
def files(tmp_path, tiny_config):
    """Two files of one shape, all of whose numbers are 1 and 3."""
    shapes = jax.tree.map(
        abstract_params, tpgdiff.trained_networks(tpgdiff.build(tiny_config)), is_leaf=callable
    )
    paths = []

    def write(value):
        weights = jax.tree.map(lambda leaf: np.full(leaf.shape, value, np.float32), shapes)
        paths.append(str(tmp_path / f"{value}.safetensors"))
        published.save(pathlib.Path(paths[-1]), weights, published.describe(tiny_config))

    write(1.0)
    write(3.0)
    return paths


def values(tree):
    return {float(value) for leaf in jax.tree.leaves(tree) for value in np.unique(leaf)}


def test_groups_that_are_named_are_averaged_and_the_others_are_the_last_files(
    average_weights, files, tmp_path
):
    output = tmp_path / "mean.safetensors"
    parts = [f"{share}={path}" for share, path in zip((0.25, 0.75), files, strict=True)]
    assert average_weights.main([f"--output={output}", "--only=unet", *parts]) == 0
    description, weights = published.load(output)
    assert values(weights.pop("unet")) == {2.5}
    assert values(weights) == {3.0}
    assert weights
    names = [published.load(path)[0]["weights"] for path in files]
    assert description["averaged"] == dict(zip(names, (0.25, 0.75), strict=True))
    assert values(average_weights.average((0.5, 0.5), files)[1]) == {2.0}


def test_a_negative_share_is_no_flag(average_weights, files, tmp_path):
    output = tmp_path / "beyond.safetensors"
    parts = [f"-0.5={files[0]}", f"1.5={files[1]}"]
    assert average_weights.main([*parts, f"--output={output}"]) == 0
    assert values(published.load(output)[1]) == {4.0}


@pytest.mark.parametrize("part", ["file.safetensors", "half=file.safetensors", "-0.5=", "nan=file"])
def test_what_is_no_share_of_a_file_is_named(average_weights, capsys, part):
    with pytest.raises(SystemExit):
        average_weights.main(["--output=new.safetensors", part])
    said = capsys.readouterr().err
    assert f"'{part}' is no SHARE=FILE, such as 0.4=FIRST.safetensors" in said


def test_kernels_may_be_stored_as_another_type(average_weights, files, tmp_path):
    output = tmp_path / "mean.safetensors"
    parts = [f"0.999={files[0]}", f"0.001={files[1]}"]
    arguments = [f"--output={output}", "--weights-dtype=bfloat16", *parts]
    assert average_weights.main(arguments) == 0
    description, weights = published.load(output)
    assert description["stored_as"] == "bfloat16"
    kernels = [leaf for leaf in jax.tree.leaves(weights) if leaf.ndim > 1]
    assert values(kernels) == {1.0}  # 1.002 before


def test_the_number_of_passes_is_written_where_the_classifier_can_tell_their_end(
    average_weights, files, tmp_path, capsys
):
    output = tmp_path / "mean.safetensors"
    assert average_weights.main([f"--output={output}", "--passes=2", f"1={files[0]}"]) == 2
    assert "passes=2: these weights cannot tell" in capsys.readouterr().err
    description, weights = published.load(files[0])
    multi = tmp_path / "multi.safetensors"
    description["priors"]["classification"] = "multi"
    published.save(multi, weights, description)
    assert average_weights.main([f"--output={output}", "--passes=2", f"1={multi}"]) == 0
    found = published.load(output)[0]["eval"]
    assert found == published.load(multi)[0]["eval"] | {"passes": 2}


def test_what_does_not_belong_together_is_refused(average_weights, files, tmp_path, capsys):
    output = tmp_path / "mean.safetensors"

    def said(*arguments):
        assert average_weights.main([f"--output={output}", *arguments]) == 2
        assert not output.exists()
        return capsys.readouterr().err

    assert "0.5, 0.6 must sum to 1" in said(f"0.5={files[0]}", f"0.6={files[1]}")
    assert "--only=tower" in said("--only=tower", f"0.5={files[0]}", f"0.5={files[1]}")
    description, weights = published.load(files[0])
    other = tmp_path / "other.safetensors"
    published.save(other, weights, description | {"degradations": ["rain", "snow"]})
    assert "differ in 'degradations'" in said(f"0.5={other}", f"0.5={files[1]}")
