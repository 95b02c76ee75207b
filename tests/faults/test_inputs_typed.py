"""What is typed or lies in small files, with anything in it: one sentence, or taken."""

import contextlib
import io
import json
import math
import pathlib
import random
import re
import sys

import numpy as np
import pytest
import strangers
from absl import flags
from absl.testing import flagsaver
from fuzzing import cases, endure, mutated

from tpgdiff_jax import config as configuration
from tpgdiff_jax.benchmark.claiming import claim
from tpgdiff_jax.benchmark.rows import read_rows
from tpgdiff_jax.benchmark.settings import read_ablations
from tpgdiff_jax.commands import flags as typed
from tpgdiff_jax.commands import mode_flags
from tpgdiff_jax.data.degradations.mix import Recipe, degrade, parse
from tpgdiff_jax.data.images import encode_png
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.data.training_data import parse_source
from tpgdiff_jax.inference import run_weights
from tpgdiff_jax.inference.log import newest_lines
from tpgdiff_jax.inference.present import made_of
from tpgdiff_jax.keys.table import KEYS
from tpgdiff_jax.reporting import json_lines, json_text
from tpgdiff_jax.reporting.errors import UserError, plain_errors

_ROOT = pathlib.Path(__file__).parents[2]
_OF_THE_LIBRARY = (ValueError, TypeError, AttributeError, KeyError, ArithmeticError)
_DEEP = b"[" * 20_000
_PHOTO = np.full((8, 9, 3), 77, np.uint8)
_RECIPE_WORDS = (
    *("haze", "noise", "rain", "low_light", "lowlight", "blur", "jpeg", "webp", ":", ":", "+", "+"),
    *(
        " ",
        "3",
        "5.1",
        "5",
        "-1",
        "nan",
        "inf",
        "1e9",
        "0.001",
        "\uff11",
        "\u0661",
        "\0",
        "\udce9",
        "*",
    ),
)
_SOURCE_WORDS = (
    *("photos:", "pairs:", "tfds_pairs:", "tfds_photos:", "record_photos:", "/a", "*", "1", "0.5"),
    *("..", "?lq=", "&gt=", "=", "@", "::", "train", "centre_crop=yes", "gt_rename=a->b", "\0"),
    *("\n", "1.2.3", ".", "9" * 400, "\u0661"),
)
_VALUES = (
    *(
        "",
        "1",
        "0",
        "-1",
        "1e400",
        "nan",
        "inf",
        "\u0663",
        "1_000",
        "0x10",
        "True",
        "None",
        "noise",
    ),
    *("('noise',)", "(", "((((", "()" * 50, "(" * 3000, "[" * 150 + "]" * 150, "-" * 90_000 + "1"),
    *("{1:2}", "{'a':[1]}", "a,b", "\udce9", "\0", "'", '"', "1" * 5000, "__import__('os')"),
    *("lambda: 1", "1/8", "8/1", "-1/-1", "2x2x2x2", "*", "../x", "a=b", "=", "semantic=2"),
    *(
        "semantic=nan",
        "\n",
        "9" * 400 + ".5",
        "9" * 400,
        "()",
        "(1,2",
        "'" * 7,
        "1j",
        "b'a'",
        "...",
        "1e5",
    ),
)
_WORDS = (
    *("--config=configs/quickstart.py", "--config=configs/tpgdiff_default.py:x", "--config="),
    *("--flagfile=/dev/null", "--flagfile=LICENSE", "--config=LICENSE", "--help", "--flagfile"),
    *("--undefok=a,b", "--undefok=", "--config.optim", "--noconfig.seed", "--", "-"),
)


def _said(rng: random.Random, words: tuple[str, ...], most: int) -> str:
    return "".join(rng.choice(words) for _ in range(rng.randrange(most)))


@cases(300, 20_000)
def test_recipes_of_any_words(cases, figure):
    def attack(rng: random.Random) -> None:
        recipe = parse(_said(rng, _RECIPE_WORDS, 9), seed=rng.choice((0, 1, 2**31 - 1)))
        degraded = degrade(_PHOTO[: rng.randint(1, 8), : rng.randint(1, 9)], recipe)
        assert degraded.dtype == np.uint8
        assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe

    figure(f"recipes, words: {endure(range(cases), attack, UserError)}")


@cases(200, 10_000)
def test_recipes_of_any_json(cases, figure):
    good = {"steps": [{"name": "noise", "severity": 3.0}], "seed": 5}

    def attack(rng: random.Random) -> None:
        Recipe.from_json(strangers.changed(rng, strangers.changed(rng, good)))

    refusals = (UserError,)
    figure(f"recipes, JSON: {endure(range(cases), attack, refusals)}")


@cases(300, 20_000)
def test_sources_and_ablations_of_any_words(cases, figure):
    def attack(rng: random.Random) -> None:
        weight = parse_source(_said(rng, _SOURCE_WORDS, 9)).get("weight", 1.0)
        assert math.isfinite(weight)
        read_ablations(_said(rng, ("semantic", "+", ",", "all", " ", "none", "x", "\0"), 6))

    figure(f"sources and ablations: {endure(range(cases), attack, UserError)}")


@cases(60, 6_000)
def test_keys_of_the_configuration_with_any_value(cases, figure):
    keys = list(KEYS)

    def attack(rng: random.Random) -> None:
        config = configuration.base_config()
        with config.unlocked(), config.ignore_type():
            for _ in range(rng.choice((1, 1, 1, 2, 5))):
                *groups, last = rng.choice(keys).split(".")
                group = config
                for name in groups:
                    group = group[name]
                # What the library itself refuses is the experiment's own error.
                with contextlib.suppress(*_OF_THE_LIBRARY):
                    group[last] = strangers.value(rng)
        typed.checked_config(config)

    figure(f"keys of the configuration: {endure(range(cases), attack, UserError)}")


@cases(100, 12_000)
def test_command_lines_of_any_words(cases, figure, monkeypatch):
    monkeypatch.chdir(_ROOT)
    mode_flags.define_flags()
    names, keys, modes = sorted(mode_flags.own_flags()), list(KEYS), list(mode_flags.TYPED_MODES)
    saved = flagsaver.save_flag_values()

    def word(rng: random.Random) -> str:
        text = rng.choice(_VALUES)
        return rng.choice(
            (
                *(f"--{rng.choice(names)}={text}", f"--config.{rng.choice(keys)}={text}") * 3,
                f"{rng.choice(('--', '-', ''))}{rng.choice(names)}",
                *(f"--mode={rng.choice((*modes, text))}", f"--config.{rng.choice(keys)}", text),
                *(
                    rng.choice(_WORDS),
                    _said(rng, tuple("-=.config:/*[](){}'\"\\ \n\0\udcffa1"), 12),
                ),
            )
        )

    def attack(rng: random.Random) -> None:
        first = rng.choice(
            ("--config=configs/quickstart.py",) * 3 + (f"--mode={rng.choice(modes)}",)
        )
        argv = ["main", *[first] * (rng.random() < 0.85)]
        argv += [word(rng) for _ in range(rng.choice((0, 1, 1, 1, 2, 4)))]
        monkeypatch.setattr(sys, "argv", argv)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                typed.parse_flags(argv)
            typed.checked_config(flags.FLAGS["config"].value)
        except SystemExit as left:
            if left.code:  # else it was --help
                raise
        finally:
            flagsaver.restore_flag_values(saved)

    figure(f"command lines: {endure(range(cases), attack, UserError)}")


@cases(200, 12_000)
def test_files_of_jobs_and_runs_with_anything_done_to_them(cases, figure, tmp_path):
    row = {"variant": "a", "set": "b", "image": "c.png", "files": {"lq": [1, 2]}, "psnr": 1.5}
    lines = json_lines.as_line(row | {"output": "o", "finished": "x", "seed": 3}).encode() * 3
    stored = configuration.to_json(configuration.base_config()).encode()
    identity = {"root": "/a", "seed": 1}
    job = json.dumps(identity | {"sets": {"b": {"folder": "x"}}}).encode()

    def attack(rng: random.Random) -> None:
        for name in ("process_0.jsonl", "restored.jsonl"):
            (tmp_path / name).write_bytes(mutated(rng, [lines, lines + _DEEP]))
        read_rows(tmp_path)
        present = {"o": "o", "c.png": "c.png"}
        newest_lines(tmp_path, present, lambda row: made_of(row, {"seed": 3}))
        which = rng.choice(("run", "differences", "job"))
        if which == "job":
            (tmp_path / "job").mkdir(exist_ok=True)
            (tmp_path / "job" / "job.json").write_bytes(mutated(rng, [job, job, _DEEP]))
            claim(tmp_path / "job", identity, [])
            return
        data = json.dumps(strangers.changed(rng, json.loads(stored))).encode()
        data = mutated(rng, [stored, lines, _DEEP]) if rng.random() < 0.5 else data
        (tmp_path / "config.json").write_bytes(data)
        if which == "run":
            run_weights._run_config(tmp_path)
        else:
            configuration.differences(configuration.base_config(), tmp_path / "config.json")

    figure(f"files of jobs and runs: {endure(range(cases), attack, UserError)}")


@cases(60, 6_000)
def test_records_that_are_anything(cases, figure, tmp_path):
    msgpack = pytest.importorskip("msgpack")
    records = pytest.importorskip("tpgdiff_jax.data.records")
    pytest.importorskip("array_record")
    png, path = encode_png(np.zeros((4, 5, 3), np.uint8)), tmp_path / "a.array_record"
    record = {"name": "a.png", "images": {"image": png}, "label": 0, "classes": [], "recipe": ""}
    odd = (*strangers.JSON[:-1], b"x", {"image": 2**40}, {"image": png}, {1: b"x"}, "[[", "../x")
    odd = tuple(value for value in odd if value != 2**70)  # which msgpack cannot hold
    good = msgpack.packb(record)
    records.write_records(path, [{"name": "a", "image": png}] * 2)
    whole = path.read_bytes()

    def attack(rng: random.Random) -> None:
        if rng.random() < 0.3:
            path.write_bytes(mutated(rng, [whole]))
        else:
            other = record | {rng.choice(list(record)): rng.choice(odd) for _ in range(2)}
            data = msgpack.packb(other)
            with records.record_files.open_writer(path) as writer:
                writer.write(data if rng.random() < 0.5 else mutated(rng, [good, data]))
                writer.write(good)
        source = records.RecordPhotos(path)
        for index in range(len(source)):
            shown = source[index]
            assert shown is None or shown.dtype == np.uint8
            assert isinstance(source.name(index), str)
            with contextlib.suppress(UnreadableImageError):
                source.recipe(index)

    figure(f"records: {endure(range(cases), attack, UserError)}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nests too deeply"),
        ("[1]", "no JSON object but a list"),
        ("{", "is no JSON"),
    ],
)
def test_json_that_is_none_is_named_with_the_way_out(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=rf"a\.json .*{words}.*; write it anew"):
        json_text.read_object(tmp_path / "a.json", "write it anew")


def test_a_number_beyond_every_float_is_no_finite_number():
    config = configuration.base_config()
    with config.unlocked(), config.ignore_type():
        config.data.weights = (10**400,)
    with pytest.raises(UserError, match=r"config\.data\.weights=\(10+,\): expected a tuple of"):
        typed.checked_config(config)


def test_a_name_longer_than_any_file_has_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as left, plain_errors():
        pathlib.Path("a" * 5000).stat()
    assert left.value.code == 2
    words = r"error: a{60}\.\.\. \(5000 characters\): no file can have so long a name\.\n"
    assert re.fullmatch(words, capsys.readouterr().err)


@pytest.mark.parametrize("value", ["-" * 90_000 + "1", "(" * 3000, "[" * 150 + "]" * 150])
@pytest.mark.parametrize("key", ["data.weights", "init_from", "optim.learning_rate", "sharding"])
def test_a_value_that_nests_without_end_is_one_sentence(key, value, monkeypatch):
    monkeypatch.chdir(_ROOT)
    mode_flags.define_flags()
    saved = flagsaver.save_flag_values()
    argv = ["main", "--config=configs/quickstart.py", f"--config.{key}={value}"]
    monkeypatch.setattr(sys, "argv", argv)
    try:
        with contextlib.suppress(UserError):  # for a text it is one
            typed.parse_flags(argv)
            typed.checked_config(flags.FLAGS["config"].value)
    finally:
        flagsaver.restore_flag_values(saved)
