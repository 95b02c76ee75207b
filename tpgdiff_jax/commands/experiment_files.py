"""Experiment files: Python files that make a configuration."""

import pathlib
import runpy

from ml_collections import ConfigDict

from tpgdiff_jax.reporting.errors import UserError

# What is wrong with the user's own file, in one line; all else keeps its traceback.
_OF_AN_EXPERIMENT = (
    *(AttributeError, TypeError, ValueError, ArithmeticError, SyntaxError, ImportError),
    *(NameError, LookupError),
)


def known_experiments() -> str:
    """Return a sentence that names the experiment files at hand, for a message."""
    found = sorted(str(path) for path in pathlib.Path("configs").glob("*.py"))
    return (
        f" Here are: {', '.join(found)}." if found else " Example: --config=configs/quickstart.py"
    )


def load_experiment(path: pathlib.Path, task: str | None) -> ConfigDict:
    """Return the configuration that an experiment file makes.

    Args:
      path: of the file, which defines `get_config`.
      task: what its `get_config` is given; None: nothing.

    Raises:
      UserError: it is no experiment file, or fails; names the file and why.
    """
    try:
        get_config = runpy.run_path(str(path))["get_config"]
        config = get_config() if task is None else get_config(task)
    except KeyError as error:
        if error.args != ("get_config",):
            raise UserError(f"{path}: {_one_line(error)}") from error
        raise UserError(
            f"{path} has no function get_config(); it is no experiment file."
        ) from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except _OF_AN_EXPERIMENT as error:
        raise UserError(f"{path}: {type(error).__name__}: {_one_line(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returns {type(config).__name__}, not a ConfigDict.")
    return config


def _one_line(error: Exception) -> str:
    return " ".join(str(error.args[0] if error.args else error).split())
