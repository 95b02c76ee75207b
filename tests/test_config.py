"""The configuration's defaults, checks and comparison."""

import json
import pathlib

import pytest
from ml_collections import ConfigDict

from tpgdiff_jax import config as configuration
from tpgdiff_jax.commands.config_checks import KNOWN, validate
from tpgdiff_jax.commands.flags import checked_config
from tpgdiff_jax.reporting.errors import UserError

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").rglob("*.py"))


def set_key(config, key, value):
    *groups, name = key.split(".")
    for group in groups:
        config = config[group]
    config[name] = value


def test_base_config_is_valid_and_locked():
    config = configuration.base_config()
    validate(config)
    with pytest.raises(AttributeError, match="learning_rate"):
        config.optim.lerning_rate = 1.0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid_and_says_what_it_is_for(path, load_config):
    namespace_config = load_config(path)
    checked_config(namespace_config)
    assert path.read_text().startswith('"""')


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.prediction", "nois"),
        ("model.head_dim", 48),
        ("model.convolutions", "mkl"),
        ("model.width", 7),
        ("loss.objective", "x"),
        ("loss.distance", "l3"),
        ("data.degradations", ("noise", "fog")),
        ("data.degradations", ()),
        ("priors.cues", ("edges",)),
        ("data.batch_size", 0),
        ("optim.steps", -1),
        ("optim.clip_norm", -1.0),
        ("ema.decay", 1.0),
        ("eval.sampler", "ddim"),
        ("eval.steps", 0),
        ("diffusion.schedule", "sigmoid"),
        ("model.unet", "tiny"),
        ("loss.first_step_share", 1.5),
        ("priors.teacher_size", 0),
        ("model.multipliers", ()),
        ("model.multipliers", (1, 0)),
        ("model.multipliers", (1.5,)),
        ("model.blocks", ("2",)),
        ("priors.encoder_width", 0),
        ("priors.map_width", 0),
        ("priors.connector_depth", -1),
        ("priors.segmentation_net.widths", ()),
        ("priors.depth_net.fusion", 0),
        ("optim.b1", -0.1),
        ("optim.b2", 2.0),
        ("optim.decay_factor", -1.0),
        ("optim.milestones", ("a",)),
        ("optim.milestones", (200, 100)),
        ("optim.weight_decay", -0.5),
        ("optim.learning_rate", float("inf")),
        ("optim.clip_norm", float("nan")),
        ("stage_one.optim.b2", 1.0),
        ("stage_one.optim.milestones", (0,)),
        ("prepare.severities", (9,)),
        ("prepare.severities", ()),
        ("prepare.severities", ("3",)),
        ("prepare.seed", -1),
        ("data.severity", (1.0,)),
        ("data.weights", ("1",)),
        ("ema.more_decays", (None,)),
        ("loss.least_harm", 0.0),
        ("benchmark.largest_whole", 0.0),
        ("benchmark.steps", (1.5,)),
        ("benchmark.steps", (0,)),
        ("benchmark.metrics", ("pnsr",)),
        ("benchmark.metrics", (3,)),
        ("benchmark.protocol", "mine"),
        ("benchmark.samplers", ("ddim",)),
        ("benchmark.samplers", ({},)),
        ("benchmark.bucket", 0),
        ("benchmark.tile", 63),
        ("benchmark.sets", ()),
        ("benchmark.seed", 2**32),
        ("eval.seed", -1),
        ("seed", 2**32),
        ("seed", True),
        ("data.workers", True),
        ("data.degradations", (["noise"],)),
        ("data.degradations", ("noise", "rain", "noise")),
        ("data.train_sources", (7,)),
        ("data.train_sources", ("/data/photos",)),
        ("prepare.recipes", (3,)),
        ("optim.learning_rate", float("nan")),
        ("mesh.data", 0),
        ("mesh.spatial", -2),
        ("mesh.tensor", -1),
        ("sharding", (3,)),
        ("sharding", ("kernel$",)),
        ("diffusion.eps", 1.0),
        ("diffusion.max_sigma", float("inf")),
        ("data.mix_share", 0.5),
        ("data.max_mixed", 6),
        ("priors.clip.heads", 5),
        ("priors.clip.patch", 300),
        ("priors.depth_net.taps", (9, 10, 11, 13)),
        ("priors.depth_net.neck", (48, 96)),
        ("priors.segmentation_net.depths", (2, 2, 2)),
        ("priors.segmentation_net.heads", (1, 2, 7, 8)),
        ("optim.accumulate", 3),
        ("eval.ema_decay", 0.5),
    ],
)
def test_wrong_values_are_named(key, value):
    config = configuration.base_config()
    set_key(config, key, value)
    with pytest.raises(UserError, match=rf"{key}\b") as error:
        validate(config)
    assert str(value[-1] if isinstance(value, tuple) and value else value) in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("benchmark.sets", (3,), "sets: 3 is neither a name nor a mapping of fields"),
        ("benchmark.sets", (["five"],), r"sets: \['five'\] is neither a name nor a mapping"),
        ("benchmark.sets", ({"preset": "five"},), "sets: preset='five' is no single set"),
        ("benchmark.sets", ({"preset": ["lol"]},), r"sets: preset=\('lol',\) is no single set"),
        (
            "benchmark.sets",
            ({"name": "a", "folder": "a", "count": True},),
            "set 'a': count=True: expected 1 or more, or None",
        ),
        (
            "benchmark.sets",
            ({"name": "a", "folder": "a", "layout": "clean", "sigma": "25"},),
            "set 'a': sigma='25': expected a finite number of 0 or more",
        ),
        ("prepare.recipes", ("fog:2",), "config.prepare.recipes: 'fog' is no degradation"),
        ("profile_steps", (20, 10), r"config.profile_steps=\(20, 10\): expected .*least, most"),
        ("profile_steps", (20,), r"config.profile_steps=\(20,\): expected \(\) or a pair"),
        ("sharding", (("kernel$", 3),), r"config.sharding: \('kernel\$', 3\) must be \(regex,"),
    ],
)
def test_wrong_values_inside_tuples_are_named(key, value, words):
    config = configuration.base_config()
    set_key(config, key, value)
    with pytest.raises(UserError, match=words):
        validate(config)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "model.multipliers",
            (),
            "config.model.multipliers=(): expected a non-empty tuple of whole numbers of 1 or "
            'more; for example --config.model.multipliers="(1, 2, 4, 8)".',
        ),
        (
            "data.weights",
            (1.0, -1.0),
            "config.data.weights=(1.0, -1.0): expected a tuple of finite numbers of 0 or more; "
            'for example --config.data.weights="(2.0, 1.0, 1.0, 1.0, 1.0)".',
        ),
        (
            "loss.distance",
            "l3",
            "config.loss.distance='l3': expected one of l1, l2, log_l2; "
            "for example --config.loss.distance=l1.",
        ),
        (
            "prepare.severities",
            (9.0,),
            "config.prepare.severities=(9.0,): expected a non-empty tuple of finite numbers from "
            '0 to 5; for example --config.prepare.severities="(1.0, 3.0, 5.0)".',
        ),
    ],
)
def test_refusals_say_what_is_expected_and_how_to_write_it(key, value, sentence):
    config = configuration.base_config()
    set_key(config, key, value)
    with pytest.raises(UserError) as error:
        validate(config)
    assert str(error.value) == sentence


def test_every_example_is_a_valid_value():
    for key, entry in configuration.KEYS.items():
        check = configuration.check_of(key, KNOWN)
        assert check.fits(entry.default), key
        assert entry.example is None or check.fits(entry.example), key


def test_the_rooms_give_choices_to_exactly_the_keys_that_await_some():
    awaiting = {key for key, entry in configuration.KEYS.items() if callable(entry.check)}
    assert awaiting == KNOWN.keys()


def test_keys_that_may_change_are_told_apart_whatever_version_they_are_of(tmp_path):
    config = configuration.base_config()
    old = json.loads(configuration.to_json(config))
    old["log"]["colour"] = "red"
    path = tmp_path / "config.json"
    path.write_text(json.dumps(old))
    assert configuration.differences(config, path) == []
    old["loss"]["colour"] = "red"
    path.write_text(json.dumps(old))
    assert configuration.differences(config, path) == ["loss.colour: 'red' -> None"]


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("model", "width", "64"),
        ("model", "use_structure", 1),
        ("data", "degradations", "noise"),
        ("optim", "learning_rate", True),
    ],
)
def test_values_of_another_kind_are_named(group, name, value):
    """Where an experiment file replaces a whole group, ConfigDict checks no kind."""
    config = configuration.base_config().unlock()
    config[group] = ConfigDict(config[group].to_dict() | {name: value})
    with pytest.raises(ValueError, match=rf"config\.{group}\.{name}={value!r}: expected"):
        validate(config)


@pytest.mark.parametrize(("key", "value"), [("blocks", (1, 2)), ("width", 6)])
def test_wrong_values_of_the_lean_network_are_named(key, value):
    config = configuration.base_config()
    config.model.unet = "lean"
    setattr(config.model, key, value)
    with pytest.raises(ValueError, match=rf"model\.{key}="):
        validate(config)


def test_differences_list_what_may_not_change(tmp_path):
    config = configuration.base_config()
    path = tmp_path / "config.json"
    path.write_text(configuration.to_json(config))
    assert configuration.differences(config, path) == []
    config.eval.steps = 3
    config.log.every_steps = 7
    config.model.remat = "blocks"
    config.optim.accumulate = 2
    assert configuration.differences(config, path) == []
    config.stage_one.optim.accumulate = 2  # each part draws its dropout
    assert configuration.differences(config, path) == ["stage_one.optim.accumulate: 1 -> 2"]
    config.stage_one.optim.accumulate = 1
    config.optim.learning_rate = 5e-4
    config.model.multipliers = (1, 2)
    lines = configuration.differences(config, path)
    assert len(lines) == 2
    assert "model.multipliers: [1, 2, 4, 8] -> [1, 2]" in lines
    assert any(line.startswith("optim.learning_rate: 0.0002") for line in lines)


def test_a_sampler_that_skips_no_step_needs_the_whole_number_of_them():
    config = configuration.base_config()
    config.eval.sampler = "euler_ode"
    validate(config)
    config.eval.steps = 10
    words = r"config\.eval: sampler='euler_ode' takes the SDE's own 100 steps, not 10; use one of"
    with pytest.raises(UserError, match=words):
        validate(config)


def test_clean_examples_need_labels_that_can_say_none():
    config = configuration.base_config()
    config.data.clean_share = 0.1
    with pytest.raises(ValueError, match=r"priors\.classification.*data\.clean_share=0\.1"):
        validate(config)
    config.priors.classification = "multi"
    validate(config)
    config.data.dark_share = 1.5
    with pytest.raises(ValueError, match=r"data\.dark_share"):
        validate(config)


def test_keys_younger_than_a_run_count_as_at_their_default(tmp_path):
    config = configuration.base_config()
    old = json.loads(configuration.to_json(config))
    del old["model"]["matmul_precision"]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(old))
    assert configuration.differences(config, path) == []
    config.model.matmul_precision = "highest"
    expected = ["model.matmul_precision: 'default' -> 'highest'"]
    assert configuration.differences(config, path) == expected
