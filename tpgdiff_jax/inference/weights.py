"""The weights that come inside the package, and which weights a path stands for."""

import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from tpgdiff_jax import native
from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of, groups_of
from tpgdiff_jax.checkpoints.published import DEFAULT, DEFAULT_WEIGHTS
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.runs.on_store import newest_steps
from tpgdiff_jax.stores.copies import local
from tpgdiff_jax.stores.places import naming_addresses
from tpgdiff_jax.stores.urls import check, is_url, named

_AGAIN = (
    "These weights come with tpgdiff_jax: install it again (pip install --force-reinstall), or "
    "name other weights: --checkpoint=FILE.safetensors, Restorer.load(path)."
)


def load_suited(
    path: str | os.PathLike | None = None, dtype: str = "auto"
) -> tuple[TPGDiff, dict[str, Any], ConfigDict, str]:
    """Read a whole system and let it compute in the type that suits this machine.

    Args:
      path: see `load_any`.
      dtype: `float32` or `bfloat16`; `auto`: that of the weights' training, but float32 where
        bfloat16 is slow (`native.has_fast_bfloat16`).  Most results of the two differ by less than
        0.05 dB; of haze and low light, whose veil is guessed, by up to 1 dB (docs/measured.md).

    Returns:
      as `load_any`; the configuration's `model.dtype` says the type.

    Raises:
      UserError: as `load_any`, or another dtype.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise UserError(f"dtype={dtype!r} is unknown; expected auto, float32 or bfloat16.")
    model, variables, config, fingerprint = load_any(path)
    if dtype == "auto":
        is_slow = config.model.dtype == "bfloat16" and not native.has_fast_bfloat16()
        dtype = "float32" if is_slow else config.model.dtype
    if dtype != config.model.dtype:
        with config.unlocked():
            config.model.dtype = dtype
        model = tpgdiff.build(config)
    return model, variables, config, fingerprint


def load_any(
    path: str | os.PathLike | None = None,
) -> tuple[TPGDiff, dict[str, Any], ConfigDict, str]:
    """Read a whole system from wherever it lies.

    Args:
      path: published weights, the folder of a training run (its newest checkpoint is taken), the
        address of either in a store, or None or "default" for the weights inside the package.

    Returns:
      (the system, its variables {"params", "frozen"}, its configuration, the fingerprint that the
      file's description says, or that an export of the run would say).

    Raises:
      UserError: no such file, a damaged one, one of another version, or one that holds no whole
        system; says which and what to do.
    """
    if path is None or path == DEFAULT:
        return _load_default()
    check(path)
    if is_url(path):
        with naming_addresses():
            is_file = named(path).endswith(".safetensors")
            return load_any(local(path) if is_file else local(path, newest_steps, "newest"))
    if pathlib.Path(path).is_dir():
        # Imported late: it takes a while, and few weights are those of a run's folder.
        from tpgdiff_jax.inference.run_weights import load_run

        model, variables, config = load_run(path)
        return model, variables, config, fingerprint_of(groups_of(variables))
    return *published.load_system(path), published.fingerprint(path)


def _load_default() -> tuple[TPGDiff, dict[str, Any], ConfigDict, str]:
    if not DEFAULT_WEIGHTS.is_file():
        raise UserError(f"{DEFAULT_WEIGHTS} is missing. {_AGAIN}")
    try:
        return load_any(DEFAULT_WEIGHTS)
    except UserError as error:
        raise UserError(f"{error} {_AGAIN}") from error
