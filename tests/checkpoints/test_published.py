"""The publication format keeps weights and their description together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.fingerprint import groups_of
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.models import tpgdiff


@pytest.fixture
def system(tiny_config):
    """A tiny system with a frozen network: its configuration and groups of random weights."""
    tiny_config.priors.cues = ("segmentation", "gradient")
    tiny_config.priors.segmentation_net.update(
        {"widths": (8, 8), "depths": (1, 1), "heads": (1, 1), "reductions": (2, 1)}
    )
    tiny_config.priors.segmentation_net.update(
        {"patch_sizes": (7, 3), "strides": (4, 2), "mlp_ratios": (2, 2), "decoder": 8}
    )
    tiny_config.priors.segmentation_size = 32
    model = tpgdiff.build(tiny_config)
    networks = {
        "unet": model.unet,
        "structure": model.structure,
        "encoder": model.encoder,
        "segmentation": model.structure.segmentation_net,
    }
    rng = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) < 2:  # gains, biases and a norm's variance, which is positive
            return rng.uniform(0.5, 1, leaf.shape).astype(np.float32)
        scale = np.prod(leaf.shape[:-1]) ** -0.5
        return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    return tiny_config, jax.tree.map(draw, abstract_params(networks))


def test_a_system_is_read_back_as_it_was_written(system, tmp_path):
    config, weights = system
    path = tmp_path / "new" / "system.safetensors"
    published.save(path, weights, published.describe(config))
    model, variables, read = published.load_system(path)
    assert model == tpgdiff.build(config)
    assert read.data.degradations == config.data.degradations
    assert variables["params"].keys() == {"unet", "structure", "encoder"}
    frozen = variables["frozen"]["structure"]["segmentation"]
    jax.tree.map(np.testing.assert_array_equal, frozen, weights["segmentation"])
    for group, found in variables["params"].items():
        jax.tree.map(np.testing.assert_array_equal, found, weights[group])
    image = np.full((1, 16, 16, 3), 0.5, np.float32)
    noise, _ = jax.jit(model.apply)(variables, image, image, np.ones(1))
    assert np.isfinite(noise).all()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "system.json",
        "system.safetensors",
    ]


def test_only_the_groups_asked_for_are_read(system, tmp_path):
    config, weights = system
    path = tmp_path / "system.safetensors"
    published.save(path, weights, published.describe(config))
    _, some = published.load(path, ["encoder", "teacher"])
    assert some.keys() == {"encoder"}


def test_weights_that_do_not_fit_are_named(system, tmp_path):
    config, weights = system
    path = tmp_path / "system.safetensors"
    weights["segmentation"]["fuse"]["kernel"] = np.zeros((3, 3), np.float32)
    published.save(path, weights, published.describe(config))
    with pytest.raises(ValueError, match=r"1 weights of 'segmentation'.*fuse/kernel.*\(3, 3\)"):
        published.load_frozen(path, tpgdiff.build(config))
    del weights["segmentation"]
    other = tmp_path / "other.safetensors"
    published.save(other, weights, published.describe(config))
    with pytest.raises(ValueError, match=r"other\.safetensors holds no weights of 'segmentation'"):
        published.load_frozen(other, tpgdiff.build(config))


def test_nothing_is_overwritten(system, tmp_path):
    config, weights = system
    path = tmp_path / "system.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists already"):
        published.save(path, weights, published.describe(config))
    assert path.read_bytes() == b"mine"
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        published.save(tmp_path / "system.bin", weights, published.describe(config))
    with pytest.raises(ValueError, match="Unknown groups"):
        published.save(tmp_path / "a.safetensors", {"unett": {}}, published.describe(config))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        published.load(tmp_path / "nothing.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="is not in the format"):
        published.load(foreign)
    foreign.write_bytes(foreign.read_bytes()[:20])
    with pytest.raises(ValueError, match="is damaged"):
        published.load(foreign)


def rewritten(path, target, change):
    """Write a file with another description: `change(text) -> text`."""
    with safetensors.safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = change(file.metadata()["description"])
    safetensors.numpy.save_file(tensors, target, metadata={"description": text})
    return target


def test_weights_of_another_version_are_named_with_what_to_do(system, tmp_path):
    config, weights = system
    path, other = tmp_path / "system.safetensors", tmp_path / "other.safetensors"
    published.save(path, weights, published.describe(config))
    rewritten(path, other, lambda text: text.replace("weights 1", "weights 2"))
    with pytest.raises(ValueError, match=r"other\.safetensors is in the format .* 2'.*update tpg"):
        published.load(other)
    rewritten(path, other, lambda text: text.replace('"head_dim"', '"new_key"'))
    words = r"other\.safetensors: its description does not fit this version .*new_key.*update tpg"
    with pytest.raises(ValueError, match=words):
        published.load_system(other)
    rewritten(path, other, lambda text: text.replace('"prediction": "v"', '"prediction": "flow"'))
    with pytest.raises(ValueError, match=r"model.prediction is 'flow', known are noise.*update"):
        published.load_system(other)
    assert "weights" not in published.describe(config)["priors"]


@pytest.mark.parametrize("text", ["{no JSON", "[]", '{"format": "tpgdiff_jax weights 1"}', "3"])
def test_a_description_that_is_damaged_names_the_file(system, tmp_path, text):
    path, other = tmp_path / "system.safetensors", tmp_path / "other.safetensors"
    published.save(path, system[1], published.describe(system[0]))
    rewritten(path, other, lambda _: text)
    for read in (published.load, published.group_names, published.load_system):
        with pytest.raises(ValueError, match=r"other\.safetensors: its description is damaged"):
            read(other)


def test_a_value_that_changed_on_the_disk_is_noticed(system, tmp_path):
    path = tmp_path / "system.safetensors"
    published.save(path, system[1], published.describe(system[0]))
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"system\.safetensors is damaged: its weights have"):
        published.fingerprint(path)


@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_kernels_may_be_stored_in_half_the_bytes(system, tmp_path, stored, param_dtype):
    config, weights = system
    config.model.param_dtype = param_dtype
    path, whole = tmp_path / "half.safetensors", tmp_path / "whole.safetensors"
    said = published.save(path, weights, published.describe(config), stored)
    published.save(whole, weights, published.describe(config))
    assert said["stored_as"] == stored
    assert path.stat().st_size < 0.7 * whole.stat().st_size  # this system is so small: many biases
    _, variables, _ = published.load_system(path)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(param_dtype)}
    groups = groups_of(variables)
    # Rounded once to 11 bits, or once or twice to 8.
    nearest = 2.0**-11 if (stored, param_dtype) == ("float16", "float32") else 1.2 * 2.0**-8
    jax.tree.map(
        lambda found, want: np.testing.assert_allclose(found, want, rtol=1.01 * nearest, atol=1e-7),
        jax.tree.map(lambda leaf: leaf.astype(np.float32), groups),
        weights,
    )
    # Biases and gains are stored whole.
    bias = published.load(path)[1]["unet"]["final_conv"]["bias"]
    np.testing.assert_array_equal(bias, weights["unet"]["final_conv"]["bias"])


def test_what_a_type_cannot_hold_is_refused_by_name(system, tmp_path):
    config, weights = system
    path = tmp_path / "half.safetensors"
    weights["unet"]["final_conv"]["kernel"][0, 0, 0, 0] = -70000
    words = r"unet/final_conv/kernel holds 70000, which float16 cannot.*bfloat16 or float32"
    with pytest.raises(ValueError, match=words):
        published.save(path, weights, published.describe(config), "float16")
    assert not list(tmp_path.glob("half*"))
    published.save(path, weights, published.describe(config), "bfloat16")
    assert published.load(path)[1]["unet"]["final_conv"]["kernel"][0, 0, 0, 0] == -70144
    with pytest.raises(ValueError, match="weights_dtype='int8': expected one of"):
        published.save(tmp_path / "a.safetensors", weights, published.describe(config), "int8")


def test_a_folder_stands_for_what_its_run_published(tmp_path):
    assert published.weights_in(tmp_path) == tmp_path / "weights.safetensors"
    assert published.weights_in(str(tmp_path / "a.safetensors")) == tmp_path / "a.safetensors"
