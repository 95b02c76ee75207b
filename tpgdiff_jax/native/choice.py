"""Decide, once per process, who computes convolutions on the CPU; say so in one line."""

import functools
import os

import jax
from absl import logging

from tpgdiff_jax.native import library
from tpgdiff_jax.native.build import MissingError
from tpgdiff_jax.native.library import Library

WAYS = ("auto", "xla", "onednn")
ENVIRONMENT = "TPGDIFF_CONVOLUTIONS"  # goes before the configuration; for bug reports

_wanted = "auto"


class ChoiceError(ValueError):
    """A way that is unknown, or that cannot run here."""


def choose(way: str) -> None:
    """Choose who computes convolutions in the programs that are compiled from now on.

    Args:
      way: `auto`: oneDNN on CPUs where it can be had, else XLA; `xla`; `onednn`.  The environment
        variable TPGDIFF_CONVOLUTIONS goes before it.

    Raises:
      ChoiceError: an unknown way, or `onednn` where it cannot run.
    """
    global _wanted
    given = os.environ.get(ENVIRONMENT)
    name, value = (ENVIRONMENT, given) if given else ("model.convolutions", way)
    if value not in WAYS:
        raise ChoiceError(f"{name}={value!r} is unknown; expected one of {', '.join(WAYS)}.")
    if value == "onednn":
        found = _load()
        if isinstance(found, MissingError):
            raise ChoiceError(f"{name}=onednn cannot run here: {found}.")
    _wanted = way


def chosen() -> str:
    """Return what `choose` was given last; `auto` at the start."""
    return _wanted


def library_in_use() -> Library | None:
    """Return the library if oneDNN computes the convolutions of CPUs; None where XLA does.

    Says once which it is.
    """
    way = os.environ.get(ENVIRONMENT) or _wanted
    if way == "xla":
        _say("Convolutions on the CPU: XLA, as chosen; auto uses oneDNN where it is faster.")
        return None
    found = _load()
    if isinstance(found, MissingError):
        _say(f"Convolutions on the CPU: XLA. oneDNN, several times faster, is not used: {found}.")
        return None
    _say(f"Convolutions on the CPU: oneDNN {found.version} ({ENVIRONMENT}=xla uses XLA).")
    return found


def has_fast_bfloat16() -> bool:
    """Tell whether the default device computes faster in bfloat16 than in float32.

    GPUs and TPUs do; of CPUs those whose bfloat16 units oneDNN uses, since XLA uses none.
    """
    if jax.default_backend() != "cpu":
        return True
    library = library_in_use()
    return library is not None and library.has_bfloat16


@functools.cache
def _load() -> Library | MissingError:
    try:
        return library.load()
    except MissingError as error:
        return error


@functools.cache
def _say(line: str) -> None:
    logging.info("%s", line)
