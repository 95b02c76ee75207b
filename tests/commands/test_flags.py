"""Mistakes on the command line: one clear sentence, before any device is touched."""

import pathlib
import subprocess
import sys

import pytest

from tpgdiff_jax import config
from tpgdiff_jax.commands import flags as typed
from tpgdiff_jax.commands.processes import Joining, check_processes
from tpgdiff_jax.reporting.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent

EXPERIMENT = """
from tpgdiff_jax.config import base_config
def get_config():
    config = base_config()
    {line}
    return config
"""


@pytest.fixture
def experiment(tmp_path):
    def write(line: str = "config.seed = 3") -> str:
        path = tmp_path / "experiment.py"
        path.write_text(EXPERIMENT.format(line=line))
        return str(path)

    return write


@pytest.fixture
def configured(experiment, parse):
    """`configured(*overrides)` -> the configuration that they make of the experiment file."""
    return lambda *overrides: parse(f"--config={experiment()}", *overrides)["config"].value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--config is missing"]),
        (["--config=configs/quickstrat.py"], ["configs/quickstrat.py", "is not a file"]),
        (["--config", "/nowhere.py"], ["/nowhere.py", "is not a file"]),
    ],
)
def test_config_file_missing(arguments, words):
    with pytest.raises(UserError) as error:
        typed.config_name(["main", *arguments])
    assert all(word in str(error.value) for word in words)


def test_what_an_experiment_file_says_is_wrong_is_said_in_its_own_words(parse):
    weights = ROOT / "configs" / "finetune.py:nowhere.safetensors"
    with pytest.raises(UserError, match=r"finetune\.py: nowhere\.safetensors is no file"):
        parse(f"--config={weights}")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.optim.lerning_rate=1", ["optim.lerning_rate", "nearest: optim.learning_rate"]),
        ("--config.optm.steps=1", ["optm.steps", "nearest: optim.steps"]),
        ("--config.optim=3", ["optim is a group", "optim.steps"]),
    ],
)
def test_unknown_override_names_the_nearest_key(experiment, override, words):
    path = experiment()
    with pytest.raises(UserError) as error:
        typed.parse_flags(["main", f"--config={path}", override])
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mode=restore", "--input", "configs/quickstart_photos", "--output=o"],
        ["--mode", "restore", "--input=configs/quickstart_photos", "--configure_nothing=1"],
        ["--mode=convert", "--input", "config.json", "--output", "config.safetensors"],
    ],
)
def test_values_that_begin_with_config_name_no_experiment_file(arguments):
    assert typed._goes_without_config(["main", *arguments])
    for named in (["--config=a.py"], ["-config", "a.py"], ["--config.seed=1"]):
        assert not typed._goes_without_config(["main", *arguments, *named])


@pytest.mark.parametrize(
    ("joining", "words"),
    [
        ({"num_processes": 2, "process_id": 1}, "--num_processes=2 alone starts one process"),
        ({"process_id": 0}, "--process_id=0 alone starts one process"),
    ],
)
def test_numbers_of_processes_that_nothing_joins_are_refused(joining, words):
    with pytest.raises(UserError, match=f"{words}.*--coordinator=.*--distributed=on"):
        check_processes(Joining(**joining))
    for joined in ({"distributed": "on"}, {"coordinator": "host:1"}):
        check_processes(Joining(**joining | joined))
    check_processes(Joining())


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "--config.optim.steps=abc",
            "--config.optim.steps=abc: expected a whole number of 1 or more; "
            "for example --config.optim.steps=700000.",
        ),
        (
            "--config.optim.learning_rate=",
            "--config.optim.learning_rate=: expected a finite number above 0; "
            "for example --config.optim.learning_rate=0.0002.",
        ),
        (
            "--config.model.multipliers=(1, 2",
            "--config.model.multipliers=(1, 2: expected a tuple; "
            'for example --config.model.multipliers="(1, 2)".',
        ),
        (
            "--config.eval.clamp=maybe",
            "--config.eval.clamp=maybe: expected True or False; "
            "for example --config.eval.clamp=False.",
        ),
        (
            "--config.model.width",
            "--config.model.width: expected a whole number of 2 or more, a multiple of 2; "
            "for example --config.model.width=64.",
        ),
    ],
)
def test_a_value_that_cannot_be_read_says_what_is_expected(configured, override, sentence):
    with pytest.raises(UserError) as error:
        configured(override)
    assert str(error.value) == sentence


def test_every_example_can_be_typed_as_shown(configured):
    keys = [key for key in config.KEYS if not key.startswith(("benchmark.", "prepare."))]
    shown = [config.how_to_write(key).removeprefix("for example ") for key in keys]
    found = configured(*(text.replace('"', "") for text in shown))  # a shell takes the quotes away
    for key in keys:
        entry = config.KEYS[key]
        value = entry.default if entry.example is None else entry.example
        assert config.get(found, key) == value, key


def test_one_number_for_a_tuple_is_a_tuple_of_one(configured):
    assert configured("--config.model.multipliers=3").model.multipliers == (3,)


def test_mistyped_key_inside_an_experiment_file(experiment):
    path = experiment("config.optim.stepz = 3")
    with pytest.raises(UserError) as error:
        typed.parse_flags(["main", f"--config={path}"])
    assert path in str(error.value)
    assert '"steps"' in str(error.value)


def test_file_without_get_config(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="no function get_config"):
        typed.parse_flags(["main", f"--config={path}"])


def test_checked_config_is_locked():
    checked = typed.checked_config(config.base_config())
    assert checked.is_locked


def test_key_that_no_program_knows_is_refused():
    strange = config.base_config()
    with strange.unlocked():
        strange.optim.learning_rat = 1.0
    with pytest.raises(UserError, match=r"optim.learning_rat is unknown.*optim.learning_rate"):
        typed.checked_config(strange)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--config.model.widht=3", ["model.widht", "model.width"]),
        ("--config.model.width=x", ["--config.model.width=x: expected a whole number"]),
        ("--config.model.width=3", ["config.model.width=3: expected", "a multiple of 2"]),
    ],
)
def test_program_fails_without_loading_jax_and_without_a_traceback(override, words):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['main', '--config=configs/quickstart.py', {override!r}]\n"
        "try:\n"
        "    runpy.run_module('tpgdiff_jax.main', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 2, stop.code\n"
        "assert 'jax' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr
