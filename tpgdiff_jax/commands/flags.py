"""Turn what was typed into a checked configuration, or into one clear sentence."""

import difflib
import itertools
import logging as standard_logging
import pathlib
import re
import runpy
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import ConfigDict

from tpgdiff_jax import config as configuration
from tpgdiff_jax.reporting.errors import UserError

_OVERRIDE = re.compile(r"--?config\.([\w.]+)(=|$)")
_UNREADABLE = re.compile(
    r"(?:Missing value for )?flag --config\.(?P<key>[\w.]+)(?:=(?P<value>.*?): |$)", re.DOTALL
)
_NAMES_CONFIG = re.compile(r"--?config\b")  # not the value configs/... of another flag
_HELP = ("--help", "-help", "--helpfull", "--helpshort", "-?")
# These modes need no experiment file: weights bring their own settings.
_WITHOUT_CONFIG = [(flag, mode) for flag in ("--mode", "-mode") for mode in ("convert", "restore")]
_CHATTY_LIBRARIES = ("orbax", "optax", "grain", "tensorstore", "jax/_src")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line; every mistake in it becomes a `UserError`.

    Args:
      argv: the program's name and its arguments.

    Returns:
      what is left after the flags.
    """
    needs_config = not _goes_without_config(argv)
    if needs_config and not any(argument in _HELP for argument in argv):
        _check_overrides(argv, _load(*config_name(argv)))
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        raise UserError(_in_words(error)) from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]!r} is no flag; flags start with --, values follow '='.")
    return rest


def _in_words(error: flags.Error) -> str:
    """Say what a key of the configuration expects, where its value cannot be read."""
    match = _UNREADABLE.match(str(error))
    if match is None or match["key"] not in configuration.KEYS:
        return str(error)
    key, value = match["key"], "" if match["value"] is None else f"={match['value']}"
    expected = configuration.expectation(key, configuration.check_of(key))
    return f"--config.{key}{value}: expected {expected}."


def _goes_without_config(argv: Sequence[str]) -> bool:
    """Tell whether the mode needs no experiment file, and none is named."""
    words = " ".join(argv).replace("=", " ").split()
    mode = any(pair in itertools.pairwise(words) for pair in _WITHOUT_CONFIG)
    return mode and not any(_NAMES_CONFIG.match(argument) for argument in argv)


def config_name(argv: Sequence[str]) -> tuple[pathlib.Path, str | None]:
    """Return the file that --config names, and what follows its colon (FILE.py:TASK).

    Raises:
      UserError: --config is missing, or names no file.
    """
    for index, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            value = value if equals else "".join(argv[index + 1 : index + 2])
            name, colon, task = value.partition(".py:")
            path = pathlib.Path(f"{name}.py" if colon else value)
            if path.is_file():
                return path, task if colon else None
            raise UserError(f"--config={value} is not a file.{_known_configs()}")
    raise UserError(f"--config is missing; name an experiment file.{_known_configs()}")


def _known_configs() -> str:
    found = sorted(str(path) for path in pathlib.Path("configs").glob("*.py"))
    return (
        f" Here are: {', '.join(found)}." if found else " Example: --config=configs/quickstart.py"
    )


def _load(path: pathlib.Path, task: str | None) -> ConfigDict:
    try:
        get_config = runpy.run_path(str(path))["get_config"]
        config = get_config() if task is None else get_config(task)
    except KeyError as error:
        if error.args != ("get_config",):
            raise UserError(f"{path}: {_one_line(error)}") from error
        raise UserError(
            f"{path} has no function get_config(); it is no experiment file."
        ) from error
    except (AttributeError, TypeError, ValueError, SyntaxError, ImportError, NameError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returns {type(config).__name__}, not a ConfigDict.")
    return config


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())


def _check_overrides(argv: Sequence[str], config: ConfigDict) -> None:
    """Raise for the first --config.KEY that is no key, with the nearest one that is."""
    keys = [key for key, _ in configuration.flat_items(config)]
    groups = {key.rsplit(".", 1)[0] for key in keys if "." in key}
    for argument in argv:
        match = _OVERRIDE.match(argument)
        if match is None or match.group(1) in keys:
            continue
        key = match.group(1)
        if key in groups:
            inside = ", ".join(k for k in keys if k.startswith(f"{key}."))
            raise UserError(f"--config.{key} is a group, not a key; set one of {inside}.")
        near = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)
        raise UserError(f"--config.{key} is no key of this configuration; nearest: {near[0]}.")


def checked_config(config: ConfigDict | None) -> ConfigDict:
    """Lock and validate a configuration, also against the keys every program expects.

    None, from programs that go without an experiment file, stands for the released settings.
    """
    if config is None:
        config = configuration.base_config()
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


def define_restore_flags() -> tuple[str, ...]:
    """Define the flags of --mode=restore; return the names of those that say how to restore."""
    flags.DEFINE_string(
        "checkpoint",
        None,
        "restore, eval: a .safetensors file, a run's folder, or 'default': the weights that come "
        "with tpgdiff_jax, which restore takes by itself.",
    )
    flags.DEFINE_string("format", ".png", "restore: suffix of the results.")
    flags.DEFINE_bool("side_by_side", False, "restore: also write degraded | restored.")
    flags.DEFINE_integer("batch_size", 4, "restore: images a device restores together, at most.")
    flags.DEFINE_integer("spatial", 1, "restore: devices that share the rows of each image.")
    flags.DEFINE_bool("compile_cache", True, "Keep compiled programs for the next run.")
    flags.DEFINE_integer("steps", None, "restore: network calls, if not the weights' own number.")
    flags.DEFINE_string("sampler", None, "restore: which sampler, if not the weights' own.")
    flags.DEFINE_integer("seed", 0, "restore: of the sampling noise.")
    flags.DEFINE_integer("tile", None, "restore: window for large images, pixels; 0: always whole.")
    flags.DEFINE_bool(
        "exact_size", False, "restore: pad no image; every size needs a program of its own."
    )
    flags.DEFINE_integer("windows", 1, "restore: windows a device sees at once.")
    flags.DEFINE_integer("samples", 1, "restore: draws per image; 2 or more show the uncertainty.")
    flags.DEFINE_multi_string("guidance", [], "restore: BRANCH=STRENGTH, e.g. semantic=2.")
    return ("steps", "sampler", "seed", "tile", "windows", "samples", "guidance", "exact_size")


def parse_strengths(texts: Sequence[str]) -> dict[str, float]:
    """Read --guidance=BRANCH=STRENGTH, given once or several times."""
    strengths = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            strengths[name] = float(value)
        except ValueError as error:
            raise UserError(
                f"--guidance={text}: expected BRANCH=STRENGTH, e.g. semantic=2."
            ) from error
    return strengths


def check_processes(
    distributed: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Refuse flags of several processes that would be ignored; the arguments are those flags."""
    for name, value in (("num_processes", num_processes), ("process_id", process_id)):
        if value is not None and not (distributed or coordinator):
            raise UserError(
                f"--{name}={value} alone starts one process; add --coordinator=HOST:PORT (of "
                "process 0), or --distributed where JAX finds the others itself."
            )


def quiet_libraries() -> None:
    """Keep the libraries' chatter out of the log; their warnings stay."""

    def is_wanted(record: standard_logging.LogRecord) -> bool:
        chatty = any(name in record.pathname for name in _CHATTY_LIBRARIES)
        return not chatty or record.levelno >= standard_logging.WARNING

    logging.get_absl_handler().addFilter(is_wanted)
