"""Values of the wrong kind: which flag, what is expected, how to write it."""

import ast
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from tpgdiff_jax import config as configuration
from tpgdiff_jax.commands.mode_flags import SHARE
from tpgdiff_jax.reporting.errors import UserError

# Kind of value -> what it is called.
_CALLED = {bool: "True or False", int: "a whole number", float: "a number"}
_EXAMPLES = {
    "int": (int, "100"),
    "float": (float, "0.5"),
    "bool": (bool, "True"),
    SHARE: (None, "0/8"),
}


def value_error(name: str, text: str | None, config: ConfigDict | None) -> UserError:
    """Say what is wrong with a value that could not be parsed.

    Args:
      name: of the flag, `config.KEY` for a key of the configuration.
      text: what was typed; None is nothing.
      config: the experiment, whose own value is the example.
    """
    key = name.removeprefix("config.")
    typed = f"--{name}" if text is None else f"--{name}={text}"
    if key != name and key in configuration.KEYS:
        expected = configuration.expectation(key, configuration.check_of(key))
        return UserError(f"{typed}: expected {expected}.")
    if key != name and config is not None:
        usual = dict(configuration.flat_items(config))[key]
        expected, example = _CALLED.get(type(usual), "another value"), repr(usual)
    else:
        expected, example = _expected(flags.FLAGS[name])
    hint = f"; for example --{name}={example}" if example else ""
    return UserError(f"{typed}: expected {expected}{hint}.")


def _expected(flag: flags.Flag) -> tuple[str, str]:
    """Return what a flag takes, and an example."""
    if choices := getattr(flag.parser, "enum_values", None):
        return f"one of {', '.join(choices)}", choices[0]
    kind = flag.flag_type().removeprefix("multi ")
    python_type, example = _EXAMPLES.get(kind, (None, ""))
    called = _CALLED.get(python_type, kind)
    low, high = (getattr(flag.parser, f"{end}_bound", None) for end in ("lower", "upper"))
    if high is not None:
        return f"{called} from {low} to {high}", str(low)
    return (called if low is None else f"{called}, at least {low}"), example


def check_not_empty(names: Sequence[str]) -> None:
    """Raise for a flag with an empty text, as an unset variable of a shell leaves it.

    An empty path would mean the folder at hand, and an empty --host every network.

    Args:
      names: of flags, parsed.
    """
    for name in names:
        value = flags.FLAGS[name].value
        if "" in (value if isinstance(value, list) else [value]):
            raise UserError(
                f"--{name}=: its value is empty, as where a variable of the shell is not set; "
                "write one, or leave the flag out."
            )


def check_tuple(key: str, text: str, usual: Sequence[Any]) -> None:
    """Raise unless a text is a value as Python writes it, or one word.

    Flags would take `noise,blur` for one word with a comma in it.

    Args:
      key: of the configuration, which holds a tuple.
      text: what was typed.
      usual: the experiment's own value, the example where the text gives none.
    """
    is_literal = _as_value(text) is not text
    is_word = text and "," not in text and text[0] not in "([{"
    if is_literal or is_word:
        return
    parts = [part.strip(" '\"") for part in text.strip("()[] ").split(",")]
    meant = tuple(_as_value(part) for part in parts if part)
    example = meant if meant and "{" not in text else tuple(usual)
    raise UserError(
        f'--config.{key}={text}: expected a tuple; for example --config.{key}="{example}".'
    )


def _as_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: nests too deeply
        return text
