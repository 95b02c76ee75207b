"""Turn what was typed into a checked configuration, or into one clear sentence."""

import difflib
import logging as standard_logging
import math
import os
import pathlib
import platform
import re
import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import ConfigDict

from tpgdiff_jax import config as configuration
from tpgdiff_jax.commands import mode_flags
from tpgdiff_jax.commands.experiment_files import known_experiments, load_experiment
from tpgdiff_jax.commands.refusing import check_given
from tpgdiff_jax.commands.values import check_not_empty, check_tuple, value_error
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.places import with_addresses

_OVERRIDE = re.compile(r"--?config\.([\w.]+)(?:=(.*))?$", re.DOTALL)
_NAMES_CONFIG = re.compile(r"--?config\b")  # not the value configs/... of another flag
_HELP = ("--help", "-help", "--helpshort", "--helpfull", "-?", "-h")
_CHATTY_LIBRARIES = ("orbax", "optax", "grain", "tensorstore", "jax/_src", "botocore")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line; every mistake in it becomes a `UserError`.

    Args:
      argv: the program's name and its arguments.  `--flagfile=FILE` is replaced by its lines, in
        `sys.argv`, too, where the configuration's flag looks for its keys.

    Returns:
      what is left after the flags.

    Raises:
      UserError: an unknown flag, mode or key, a value of another kind, a flag that the mode does
        not read, or no experiment file where one is needed; names it and what would be right.
    """
    argv = _expanded(argv)
    mode_flags.define_flags()
    mode = _mode(argv)
    if any(argument in _HELP for argument in argv):
        program = mode_flags.program_of(mode, _given(argv))
        names_mode = "mode" in _given(argv)
        _print(mode_flags.help_text(program if names_mode else None))
        sys.exit(0)
    if "--version" in argv:
        _print(_versions())
        sys.exit(0)
    given, strays = _split(argv)
    if strays:
        raise UserError(_no_flag(strays[0]))
    for name in given:
        if name not in flags.FLAGS:
            near = difflib.get_close_matches(name, mode_flags.own_flags(), n=1, cutoff=0.0)
            raise UserError(f"--{name} is no flag; nearest: --{near[0]}.")
    config = None
    if not _goes_without_config(argv):
        config = load_experiment(*config_name(argv))
        _check_overrides(argv, config)
    keys = [match.group(1) for match in map(_OVERRIDE.match, argv) if match]
    program = mode_flags.program_of(mode, given)
    own = mode_flags.own_flags()
    check_given(program, [name for name in given if name in own], keys)
    try:
        rest = flags.FLAGS(list(argv))
    except (RecursionError, MemoryError) as error:  # of Python's parser
        longest = max(argv, key=len)
        raise UserError(f"{longest[:60]}...: its value nests too deeply to be read.") from error
    except flags.Error as error:
        found = re.search(r"flag --([\w.]+)", str(error))
        if found is None:
            raise UserError(str(error).strip()) from error
        raise value_error(found[1], _value(argv, found[1]), config) from error
    check_not_empty([name for name in given if name in own])
    return rest


def _versions() -> str:
    """Return what a report of a bug needs: a line per package, the commit, the platform."""
    from tpgdiff_jax.training import provenance  # takes a while

    found = provenance.versions() | provenance.git_state() | {"platform": platform.platform()}
    return "\n".join(f"{name}: {'none' if v is None else v}" for name, v in found.items())


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # as of `| head`; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _expanded(argv: Sequence[str]) -> list[str]:
    """Put the lines of flag files where they were named."""
    try:
        expanded = flags.FLAGS.read_flags_from_files(list(argv), force_gnu=False)
    except flags.Error as error:
        found = re.search(r"\[Errno.*\] (.*): '(.*)'", str(error))
        why = f"cannot open {found[2]} ({found[1]})" if found else "no file is named"
        raise UserError(f"--flagfile: {why}; name a text file with a flag a line.") from error
    except ValueError as error:  # its bytes, or those of a name in it
        why = "it holds bytes that are no text"
        raise UserError(f"--flagfile: {why}; name a text file with a flag a line.") from error
    if list(argv) == sys.argv:
        sys.argv[:] = expanded
    return expanded


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of the flags typed, without the configuration's keys, and stray words."""
    names, strays, is_value, may_be_value = [], [], False, False
    for argument in argv[1:]:
        is_flag = argument.startswith("-") and not argument[1:2].isdigit()
        if is_value or not is_flag:
            strays += [] if is_value or may_be_value else [argument]
            is_value = may_be_value = False
            continue
        may_be_value = False
        name, equals, _ = argument.lstrip("-").partition("=")
        if name.startswith(("config.", "noconfig.")):
            may_be_value = not equals and not name.startswith("no")
            continue
        if name not in flags.FLAGS and name.removeprefix("no") in flags.FLAGS:
            name = name.removeprefix("no")
        is_value = not equals and name in flags.FLAGS and not flags.FLAGS[name].boolean
        names.append(name)
    return list(dict.fromkeys(names)), strays


def _given(argv: Sequence[str]) -> list[str]:
    return _split(argv)[0]


def program_typed(argv: Sequence[str]) -> str:
    """Return which program of `mode_flags.MODES` a command line runs; see `_mode` for errors."""
    return mode_flags.program_of(_mode(argv), _given(argv))


def _value(argv: Sequence[str], flag: str) -> str | None:
    """Return the last value a flag was given, as text."""
    value = None
    for index, argument in enumerate(argv):
        name, equals, text = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            value = text if equals else next(iter(argv[index + 1 : index + 2]), None)
    return value


def _mode(argv: Sequence[str]) -> str:
    """Return the mode that was typed.

    Raises:
      UserError: there is no such mode; names the nearest.
    """
    mode = _value(argv, "mode")
    if mode is None:
        return "train"
    if mode not in mode_flags.TYPED_MODES:
        near = difflib.get_close_matches(mode.lower(), mode_flags.TYPED_MODES, n=1, cutoff=0.0)
        raise UserError(
            f"--mode={mode} is no mode; nearest: --mode={near[0]}. There are: "
            f"{', '.join(mode_flags.TYPED_MODES)}."
        )
    return mode


def _no_flag(word: str) -> str:
    if word in mode_flags.TYPED_MODES:
        return f"{word!r} is no flag; write --mode={word}."
    if os.path.isfile(word) and word.endswith(".py"):
        return f"{word!r} is no flag; write --config={word}."
    if os.path.exists(word):
        return (
            f"{word!r} is no flag; write --mode=restore --input={word}, with an --input= for each "
            "file or folder, and patterns in quotes: --input='photos/*.jpg'."
        )
    return f"{word!r} is no flag; flags start with --, values follow '='."


def _goes_without_config(argv: Sequence[str]) -> bool:
    """Tell whether the mode needs no experiment file, and none is named."""
    has_none = not any(_NAMES_CONFIG.match(argument) for argument in argv)
    return has_none and _mode(argv) in mode_flags.WITHOUT_CONFIG


def config_name(argv: Sequence[str]) -> tuple[pathlib.Path, str | None]:
    """Return the file that --config names, and what follows its colon (FILE.py:TASK).

    Raises:
      UserError: --config is missing, or names no file.
    """
    value = _value(argv, "config")
    if value is not None:
        name, colon, task = value.partition(".py:")
        path = pathlib.Path(f"{name}.py" if colon else value)
        if os.path.isfile(path):
            return path, task if colon else None
        raise UserError(f"--config={value} is not a file.{known_experiments()}")
    keys = [match.group(1) for match in map(_OVERRIDE.match, argv) if match]
    check_given(_mode(argv), [], keys if _mode(argv) == "restore" else [])
    if "input" in _given(argv):
        raise UserError("--mode is missing; to restore photos, add --mode=restore.")
    missing = f"--config is missing; name an experiment file.{known_experiments()}"
    if _value(argv, "mode") is None:
        missing += " (Photos are restored by --mode=restore --input=PHOTO; --help lists all modes.)"
    raise UserError(missing)


def _check_overrides(argv: Sequence[str], config: ConfigDict) -> None:
    """Raise for the first --config.KEY that is no key, or whose value is no tuple but should be."""
    values = dict(configuration.flat_items(config))
    groups = {key.rsplit(".", 1)[0] for key in values if "." in key}
    for argument in argv:
        match = _OVERRIDE.match(argument)
        if match is None:
            continue
        key, text = match.groups()
        if key in values:
            if isinstance(values[key], tuple | list) and text is not None:
                check_tuple(key, text, values[key])
            continue
        if key in groups:
            inside = ", ".join(k for k in values if k.startswith(f"{key}."))
            raise UserError(f"--config.{key} is a group, not a key; set one of {inside}.")
        near = difflib.get_close_matches(key, values, n=1, cutoff=0.0)
        raise UserError(f"--config.{key} is no key of this configuration; nearest: {near[0]}.")


def checked_config(config: ConfigDict | None) -> ConfigDict:
    """Lock and validate a configuration, also against the keys every program expects.

    None, from programs that go without an experiment file, stands for the released settings, which
    are valid.
    """
    if config is None:
        return configuration.base_config()
    expected = dict(configuration.flat_items(configuration.base_config()))
    found = dict(configuration.flat_items(config))
    for key in sorted(expected.keys() ^ found.keys()):
        if key in expected:
            raise UserError(f"config.{key} is missing; start from base_config().")
        near = difflib.get_close_matches(key, expected, n=1, cutoff=0.0)
        raise UserError(f"config.{key} is unknown; nearest valid key: {near[0]}.")
    configuration.check_values(config)
    # Imported late: what is mistyped should not cost the import of JAX.
    from tpgdiff_jax.commands.config_checks import validate

    validate(config)
    return config.lock()


def default_workdir(argv: Sequence[str]) -> pathlib.Path:
    """Return runs/<name of the experiment file>, with its task if it has one."""
    path, task = config_name(argv)
    return pathlib.Path("runs") / (path.stem if task is None else f"{path.stem}_{task}")


def parse_strengths(texts: Sequence[str]) -> dict[str, float]:
    """Read --guidance=BRANCH=STRENGTH, given once or several times."""
    strengths = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            strengths[name] = float(value)
        except ValueError:
            strengths[name] = math.nan
        if not math.isfinite(strengths[name]):
            raise UserError(f"--guidance={text}: expected BRANCH=STRENGTH, e.g. semantic=2.")
    return strengths


def quiet_libraries() -> None:
    """Keep the libraries' chatter out of the log; their warnings stay.

    Lines name addresses in stores rather than their copies.
    """

    def is_wanted(record: standard_logging.LogRecord) -> bool:
        record.msg, record.args = with_addresses(record.getMessage()), ()
        chatty = any(name in record.pathname for name in _CHATTY_LIBRARIES)
        return not chatty or record.levelno >= standard_logging.WARNING

    logging.get_absl_handler().addFilter(is_wanted)
