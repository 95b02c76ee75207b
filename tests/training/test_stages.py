"""Which weights a stage needs, and that wrong ones are refused by name."""

import pathlib

import jax
import numpy as np
import pytest

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.config import stage_config
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.models.stage_one import build_stage_one
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.training import setup
from tpgdiff_jax.training.experiment import stages_of
from tpgdiff_jax.training.stages import (
    build_stage,
    check_structure_weights,
    stage_one_weights,
    validate_training,
    validate_weights,
)

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
CLIP = {"patch": 8, "width": 16, "layers": 1, "heads": 2, "image_size": 16, "features": 512}


def random_weights(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


@pytest.fixture
def config(tiny_config):
    tiny_config.model.update({"width": 32, "multipliers": (1, 1), "first_attention_level": 2})
    tiny_config.priors.update({"encoder": "clip", "clip": CLIP})
    return tiny_config


@pytest.fixture
def stage_one(config, tmp_path):
    """The folder of a finished run of stage one, and the weights in it."""
    networks = build_stage_one(config)
    shapes = jax.eval_shape(networks.init, jax.random.key(0))
    weights = random_weights(shapes)
    folder = tmp_path / "one"
    published.save(folder / "weights.safetensors", weights, published.describe(config))
    return folder, weights


def test_stage_two_takes_its_vectors_from_a_run_of_stage_one(config, stage_one):
    folder, weights = stage_one
    for name in (folder, folder / "weights.safetensors"):
        config.priors.stage_one = str(name)
        frozen = build_stage(config).frozen
        assert frozen.keys() == {"semantic", "degradation"}
        jax.tree.map(np.testing.assert_array_equal, frozen, weights)


@pytest.fixture
def conv_config(tiny_config):
    tiny_config.priors.update({"encoder": "conv", "teacher": "vgg", "head_blocks": 0})
    tiny_config.priors.conv.widths = (4, 6)
    tiny_config.model.update({"unet": "lean", "width": 8, "blocks": (1, 1), "middle_blocks": 0})
    return tiny_config


def test_convolutional_towers_pass_from_stage_one_to_stage_two(conv_config, tmp_path):
    networks = build_stage_one(conv_config)
    weights = random_weights(jax.eval_shape(networks.init, jax.random.key(0)))
    published.save(tmp_path / "weights.safetensors", weights, published.describe(conv_config))
    conv_config.priors.stage_one = str(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, build_stage(conv_config).frozen, weights)
    conv_config.priors.conv.widths = (4, 8)
    with pytest.raises(ValueError, match=r"priors\.conv\.widths"):
        build_stage(conv_config)


def test_only_a_student_of_its_own_shape_learns_from_clip(conv_config):
    conv_config.stage = "priors"
    conv_config.priors.teacher = "clip"
    with pytest.raises(ValueError, match=r"priors\.teacher='clip'.*'vgg'"):
        validate_weights(conv_config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"priors": {"clip": CLIP | {"width": 32}}}, ["config.priors.clip.width=32", "with 16"]),
        ({"priors": {"classification": "multi"}}, ["priors.classification='multi'", "'single'"]),
        ({"data": {"degradations": ("haze", "noise")}}, ["data.degradations", "'noise', 'haze'"]),
    ],
)
def test_a_stage_one_that_does_not_fit_is_refused_by_field(config, stage_one, change, words):
    config.priors.stage_one = str(stage_one[0])
    config.update(change)
    with pytest.raises(ValueError, match="does not fit stage one") as error:
        build_stage(config)
    assert all(word in str(error.value) for word in words), error.value


def test_an_unfinished_stage_one_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing; train stage one"):
        stage_one_weights(str(tmp_path))


def test_both_stages_get_folders_of_their_own_and_the_second_reads_the_first(config, tmp_path):
    config.stage = "both"
    (first, one), (second, two) = stages_of(config, tmp_path)
    assert (first.stage, second.stage) == ("priors", "diffusion")
    assert (one, two) == (tmp_path / "priors", tmp_path / "diffusion")
    assert second.priors.stage_one == str(one)
    assert first.optim.learning_rate == config.stage_one.optim.learning_rate
    assert first.data.batch_size == 512
    assert second.optim.learning_rate == config.optim.learning_rate
    assert second.data.batch_size == 8
    assert config.stage == "both"  # unchanged


def test_stage_one_starts_both_towers_from_clip_and_teaches_with_it(config, tmp_path):
    tower = tpgdiff.image_tower(config)
    clip = random_weights(abstract_params(tower))
    published.save(tmp_path / "clip.safetensors", {"clip": clip}, published.describe(config))
    config.priors.weights = str(tmp_path / "clip.safetensors")
    config.sharding = ((".*", "replicate"),)
    stage = build_stage(stage_config(config, "priors"))
    jax.tree.map(np.testing.assert_array_equal, stage.frozen, clip)
    mesh = setup.sharding.make_mesh(config.mesh, jax.devices()[:1])
    make_state, shapes, _ = setup.plan_state(stage, mesh)
    state = make_state()
    assert jax.tree.map(np.shape, state) == jax.tree.map(np.shape, shapes)
    for params in (state.params, state.ema):
        for tower in (params["semantic"]["student"], params["degradation"]["backbone"]):
            jax.tree.map(np.testing.assert_array_equal, tower, clip)
    assert np.abs(state.params["degradation"]["classes"]["kernel"]).max() > 0


@pytest.fixture
def system(config, stage_one, tmp_path):
    """Published weights of all that stage two trains, which `config` starts from."""
    config.priors.stage_one = str(stage_one[0])
    model = tpgdiff.build(config)
    trained = {"unet": model.unet, "structure": model.structure}
    weights = {k: random_weights(abstract_params(v), seed=1) for k, v in trained.items()}
    path = tmp_path / "system.safetensors"
    published.save(path, weights, published.describe(config))
    config.init_from = str(path)
    return weights


def test_fine_tuning_starts_from_published_weights(config, system):
    jax.tree.map(np.testing.assert_array_equal, build_stage(config).start, system)
    config.model.width = 64
    with pytest.raises(ValueError, match=r"system\.safetensors.*weights of 'unet' do not fit"):
        build_stage(config)


def test_parts_of_the_weights_may_start_anew(config, system):
    config.init_anew = ("structure/encoder",)
    config.sharding = ((".*", "replicate"),)
    stage = build_stage(config)
    mesh = setup.sharding.make_mesh(config.mesh, jax.devices()[:1])
    params = setup.plan_state(stage, mesh)[0]().params
    anew, kept = params["structure"].pop("encoder"), system["structure"].pop("encoder")
    jax.tree.map(np.testing.assert_array_equal, params["unet"], system["unet"])
    jax.tree.map(np.testing.assert_array_equal, params["structure"], system["structure"])
    assert np.abs(anew["conv_3"]["kernel"] - kept["conv_3"]["kernel"]).max() > 0
    config.init_anew = ("structure", "structure/encoder")  # one within the other
    assert build_stage(config).start.keys() == {"unet"}


def test_parts_that_start_anew_must_be_there(config, system):
    config.init_anew = ("structure/enc",)
    with pytest.raises(UserError, match=r"init_anew has 'structure/enc'.* structure/connector, st"):
        build_stage(config)
    config.init_from = ""
    validate_weights(config)  # a finished run is scored without
    with pytest.raises(UserError, match=r"init_anew=\('structure/enc',\) names .*init_from, which"):
        validate_training(config)


def test_fine_tuning_refuses_weights_that_mean_something_else(config, stage_one):
    config.priors.stage_one = str(stage_one[0])
    config.init_from = str(stage_one[0] / "weights.safetensors")
    config.model.prediction = "noise"
    with pytest.raises(
        ValueError, match=r"config\.model\.prediction='noise' does not fit .*init_from"
    ):
        build_stage(config)


def test_without_a_classifier_any_stage_one_will_do(config, stage_one):
    config.priors.stage_one = str(stage_one[0])
    config.model.use_degradation = False
    config.data.degradations = ("snow",)
    assert build_stage(config).frozen.keys() == {"semantic"}


def test_clip_itself_is_the_semantic_prior_where_there_is_no_student(config, tmp_path):
    config.model.use_degradation = False
    clip = random_weights(abstract_params(tpgdiff.image_tower(config)))
    config.priors.weights = str(tmp_path / "clip.safetensors")
    published.save(tmp_path / "clip.safetensors", {"clip": clip}, published.describe(config))
    frozen = build_stage(config).frozen
    jax.tree.map(np.testing.assert_array_equal, frozen, {"semantic": {"student": clip}})


def test_both_stages_need_the_structural_networks_before_the_first_begins(config, stage_one):
    config.priors.cues = ("depth", "dog")
    config.priors.weights = str(stage_one[0] / "weights.safetensors")
    with pytest.raises(ValueError, match="holds no weights of 'depth'"):
        check_structure_weights(config)


def test_the_choice_among_averages_is_stage_twos(config):
    config.ema.more_decays = (0.9995,)
    config.eval.ema_decay = 0.9995
    assert stage_config(config, "diffusion").eval.ema_decay == 0.9995
    assert stage_config(config, "priors").eval.ema_decay == 0
    config.stage_one.ema.more_decays = (0.9995,)
    assert stage_config(config, "priors").eval.ema_decay == 0.9995


def test_the_batch_is_checked_under_the_key_that_was_set(config):
    config = stage_config(config, "priors")
    config.data.batch_size, config.optim.accumulate = 12, 4
    words = r"config\.stage_one\.data\.batch_size=12 .* stage_one\.optim\.accumulate=4 times"
    with pytest.raises(ValueError, match=words):
        setup.make_checked_mesh(config)


def test_priors_may_not_be_split_over_tensor(tiny_config):
    tiny_config.sharding = (("encoder/.*kernel", "tensor", 1), (".*", "replicate"))
    mesh = setup.sharding.make_mesh(
        {"data": 1, "fsdp": 1, "tensor": 2, "spatial": 1}, jax.devices()[:2]
    )
    with pytest.raises(ValueError, match=r"splits 'encoder/.*wrong gradients outside the UNet"):
        setup.plan_state(build_stage(tiny_config), mesh)


def test_the_weights_of_the_package_are_called_default_wherever_weights_are_named(load_config):
    config = load_config(CONFIGS / "finetune.py")
    assert (config.init_from, config.priors.weights) == ("default", "default")
    validate_weights(config)
    stage = build_stage(config)
    _, weights = published.load(published.DEFAULT_WEIGHTS)
    assert stage.start.keys() | stage.frozen.keys() == weights.keys()
    jax.tree.map(np.testing.assert_array_equal, stage.start | stage.frozen, weights)
    config.priors.weights, config.priors.stage_one = "", "default"
    jax.tree.map(np.testing.assert_array_equal, build_stage(config).frozen, stage.frozen)


def test_what_a_run_starts_from_may_be_a_finished_run(tiny_system, tmp_path):
    config = tiny_system.config
    config.init_from = str(tmp_path)
    with pytest.raises(UserError, match=r"init_from='.*means .*weights\.safetensors, which is no"):
        validate_weights(config)
    params = jax.device_get(tiny_system.variables["params"])
    published.save(tmp_path / "weights.safetensors", params, published.describe(config))
    validate_weights(config)
    jax.tree.map(np.testing.assert_array_equal, build_stage(config).start, params)
