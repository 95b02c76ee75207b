"""Released files become one published system that answers as the released program does."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tpgdiff_jax.checkpoints import assemble, published
from tpgdiff_jax.commands import modes
from tpgdiff_jax.config import base_config
from tpgdiff_jax.reporting.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def settings():
    """What the small golden networks need to be told."""
    config = base_config()
    sizes = {"width": 64, "heads": 2, "patch": 8, "layers": 2, "image_size": 32}
    config.priors.clip.update(sizes)
    config.priors.map_size = 64
    config.priors.depth_size = 56
    config.priors.segmentation_size = 64
    return config


@pytest.fixture(scope="session")
def files(tmp_path_factory, torch, tensors, networks, golden_weights):
    """A folder with the released program's files, all weights made up."""
    folder = tmp_path_factory.mktemp("released")
    unet, structure = (golden_weights(name) for name in ("unet_nf32", "structure"))
    depth, segmentation = (
        load_file(networks / name / "model.safetensors") for name in ("depth", "segmentation")
    )
    prior = {
        **tensors(structure),
        **tensors(depth, "depth_extractor.model."),
        **tensors(segmentation, "seg_extractor.model."),
    }
    torch.save({"G": tensors(unet), "SP": prior}, folder / "universal-ir.pth")
    parallel = {"G": tensors(unet, "module."), "SP": tensors(structure, "module.")}
    torch.save(parallel, folder / "EMA_latest.pth")
    torch.save(tensors(unet), folder / "old.pth")
    torch.save({"G": tensors(unet)}, folder / "without_SP.pth")
    stage_one = {"state_dict": tensors(golden_weights("prior_tiny"), "module."), "epoch": 3}
    torch.save(stage_one, folder / "tpgd.pt")
    return folder


def test_a_released_checkpoint_gives_the_golden_outputs(
    files, tmp_path, settings, golden, golden_priors, assert_near
):
    inputs = [str(files / name) for name in ("universal-ir.pth", "tpgd.pt")]
    rows, remarks = assemble.assemble(inputs, str(tmp_path / "all.safetensors"), settings)
    assert remarks == []
    parts = {row.part: row.loaded for row in rows if row.part != "not weights"}
    assert parts.keys() == {"unet", "structure", "depth", "segmentation", "priors"}
    assert (parts["unet"], parts["structure"], parts["priors"]) == (256, 66, 110)

    model, variables, config = published.load_system(tmp_path / "all.safetensors")
    assert config.priors.encoder == "clip"
    assert len(config.data.degradations) == 5
    apply = jax.jit(model.apply, static_argnames="method")

    # The UNet, with the golden priors.
    arrays = golden("unet_nf32")
    priors = golden_priors(arrays)
    noise = apply(variables, arrays["xt"], arrays["cond"], arrays["t"], priors, method="denoise")
    assert_near(noise, arrays["out"], 1e-4)

    # The structural encoder, with the golden maps; it does not see the networks then.
    arrays = golden("structure_64")
    known = {"depth": arrays["depth"], "segmentation": arrays["seg"]}
    found = apply(variables, arrays["lq"], known, method="extract_priors")
    assert_near(found.structure, arrays["tokens"], 1e-4)

    # Stage one's networks, with the golden views.
    arrays = golden("prior_tiny")
    frozen = variables["frozen"]
    features, logits = model.degradation.clone(parent=None).apply(
        {"params": frozen["degradation"]}, arrays["lq"]
    )
    assert_near(features, arrays["degradation_features"], 1e-4)
    assert_near(logits, arrays["deg_logits"], 1e-4)
    semantic = model.semantic.clone(parent=None).apply({"params": frozen["semantic"]}, arrays["lq"])
    assert_near(semantic, arrays["z_S"], 1e-4)

    # And everything from the image alone.
    lq = golden("structure_64")["lq"]
    whole = apply(variables, lq, method="extract_priors")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(whole))
    assert np.abs(whole.structure - found.structure).max() > 1e-3  # other maps, other tokens


def test_what_was_converted_converts_back_bit_for_bit(
    files, tmp_path, settings, torch, golden_weights
):
    inputs = [str(files / name) for name in ("EMA_latest.pth", "tpgd.pt")]
    assemble.assemble(inputs, str(tmp_path / "all.safetensors"), settings)
    written = assemble.export_released(str(tmp_path / "all.safetensors"), str(tmp_path / "back"))
    assert [path.name for path in written] == ["universal-ir.pth", "tpgd.pt"]
    main, stage_one = (torch.load(path, weights_only=True) for path in written)
    for found, name in (
        (main["G"], "unet_nf32"),
        (main["SP"], "structure"),
        (stage_one["state_dict"], "prior_tiny"),
    ):
        expected = golden_weights(name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key].numpy(), value, err_msg=key)
    with pytest.raises(ValueError, match=r"universal-ir\.pth.*exists already"):
        assemble.export_released(str(tmp_path / "all.safetensors"), str(tmp_path / "back"))


@pytest.mark.parametrize("name", ["old.pth", "without_SP.pth", "EMA_latest.pth"])
def test_a_file_without_all_branches_works_without_them(files, tmp_path, settings, name):
    output = tmp_path / "weights.safetensors"
    _, remarks = assemble.assemble([str(files / name)], str(output), settings)
    text = " ".join(remarks)
    assert "go without them" in text  # the two vectors
    has_structure = name == "EMA_latest.pth"
    assert ("cues are dog" in text) == has_structure
    assert ("go without it" in text) != has_structure
    model, variables, _ = published.load_system(output)
    apply = jax.jit(model.apply, static_argnames="method")
    image = np.full((1, 16, 16, 3), 0.5, np.float32)
    priors = apply(variables, image, method="extract_priors")
    assert priors.degradation is None
    assert priors.semantic is None
    assert (priors.structure is not None) == has_structure
    noise = apply(variables, image, image, np.ones(1), priors, method="denoise")
    assert np.isfinite(noise).all()


def test_parts_may_come_one_by_one(files, networks, tmp_path, settings):
    first, second = str(tmp_path / "first.safetensors"), str(tmp_path / "second.safetensors")
    _, remarks = assemble.assemble([str(networks / "depth")], first, settings)
    assert "serves as config.priors.weights" in remarks[0]
    inputs = [first, str(networks / "segmentation"), str(files / "EMA_latest.pth")]
    _, remarks = assemble.assemble(inputs, second, settings)
    assert not any("depth" in remark for remark in remarks)
    model, _, config = published.load_system(second)
    assert config.priors.cues == ("depth", "segmentation", "dog")
    assert model.structure.depth_net.width == 32
    assert model.structure.segmentation_net.heads == (1, 1, 2, 2)
    with pytest.raises(ValueError, match="depth came from another input already"):
        assemble.assemble(
            [first, str(files / "universal-ir.pth")], str(tmp_path / "x.safetensors"), settings
        )


def test_nothing_is_overwritten_and_nothing_half_written(files, tmp_path, settings):
    output = tmp_path / "weights.safetensors"
    output.with_suffix(".json").write_text("mine")
    with pytest.raises(ValueError, match=r"weights\.json exists already"):
        assemble.assemble([str(files / "old.pth")], str(output), settings)
    assert output.with_suffix(".json").read_text() == "mine"
    inputs = [str(files / "old.pth"), str(tmp_path / "nothing.pth")]
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        assemble.assemble(inputs, str(tmp_path / "other.safetensors"), settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.json"]


def test_the_command_reports_counts_and_sources(files, networks, tmp_path):
    output = tmp_path / "depth.safetensors"
    command = [sys.executable, "-m", "tpgdiff_jax.main", "--mode=convert"]
    command += [f"--input={networks / 'depth'}", f"--output={output}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "138" in done.stdout  # arrays loaded
    assert "1: stands for hidden patches" in done.stdout  # left out, with the reason
    assert "missing 0, unexpected 0, misshapen 0" in done.stdout
    described = json.loads(output.with_suffix(".json").read_text())
    assert described["parts"]["depth"]["tensors"] == 122  # q, k and v are one
    assert described["sources"] == [{"file": "depth", "groups": ["depth"]}]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize("missing", ["input", "output"])
def test_the_command_says_what_it_needs(tmp_path, missing):
    given = {"inputs": [str(tmp_path / "a.pth")], "output": str(tmp_path / "b.safetensors")}
    given |= {"inputs": []} if missing == "input" else {"output": None}
    with pytest.raises(ValueError, match=r"needs --input \(one or several\) and --output"):
        modes.convert(base_config(), **given, to="ours", weights_dtype="float32")


def _published(path, config, *groups):
    weights = {"layer": {"kernel": np.zeros((2, 2), np.float32)}}
    published.save(path, dict.fromkeys(groups, weights), published.describe(config))
    return str(path)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_published_input_describes_its_own_parts_alone(tmp_path, order):
    own, other = base_config(), base_config()
    own.diffusion.schedule, own.model.prediction = "linear", "x0"
    own.model.width, own.priors.encoder = 48, "clip"
    own.data.degradations = ("rain", "snow")
    other.priors.depth_size = 252
    inputs = [
        _published(tmp_path / "a.safetensors", own, "unet", "semantic", "degradation"),
        _published(tmp_path / "b.safetensors", other, "depth", "segmentation"),
    ]
    target = tmp_path / "both.safetensors"
    assemble.assemble([inputs[index] for index in order], str(target), base_config())
    found = published.described_config(published.load(target, ())[0])
    assert (found.diffusion.schedule, found.model.prediction) == ("linear", "x0")
    assert (found.model.width, found.priors.encoder, found.priors.depth_size) == (48, "clip", 252)
    assert found.data.degradations == ("rain", "snow")


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (
            ("unet", "encoder"),
            r"holds encoder. The released .* priors\.encoder='clip'.* train such a one",
        ),
        (("unet", "semantic"), "lacks degradation;"),
        (("semantic", "degradation"), "a.safetensors: Parameter layer/kernel has .* train such"),
    ],
)
def test_what_the_released_program_has_not_is_not_dropped_without_a_word(
    torch, tmp_path, groups, words
):
    source = _published(tmp_path / "a.safetensors", base_config(), *groups)
    with pytest.raises(UserError, match=words):
        assemble.export_released(source, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
