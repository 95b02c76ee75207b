"""Addresses in stores among flags and keys: what cannot be used is refused before all else."""

from absl.flags import FlagValues
from ml_collections import ConfigDict

from tpgdiff_jax.config import get
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.urls import check, is_url, named

_FLAGS = ("input", "output", "workdir", "checkpoint", "predictions")
_KEYS = ("data.train_folder", "priors.weights", "priors.stage_one", "init_from", "benchmark.root")
_LOCAL_KEYS = ("benchmark.inception_weights",)


def check_addresses(config: ConfigDict | None, flags: FlagValues) -> None:
    """Check every path that was typed; no store is asked, and no file looked at.

    Args:
      config: the checked configuration; None where no experiment file was named.
      flags: of `mode_flags.define_flags`, parsed.

    Raises:
      UserError: an unknown kind of address, one where only local paths are read, or a package
        that is missing; names the flag or key.
    """
    for name in _FLAGS:
        value = flags[name].value
        for path in value if isinstance(value, list) else [value]:
            check(path or "", f"--{name}=")
    if config is not None:
        _check_keys(config)


def _check_keys(config: ConfigDict) -> None:
    # Imported late: programs without an experiment file start without test sets.
    from tpgdiff_jax.benchmark.settings import read_settings

    for key in _KEYS:
        check(get(config, key), f"config.{key}=")
    for key in _LOCAL_KEYS:
        if is_url(path := get(config, key)):
            raise UserError(f"config.{key}={named(path)}: only a local folder is read here.")
    for text in (*config.data.train_sources, config.data.eval_folder):
        _check_source(text)
    for spec in read_settings(config).specs:
        check(spec.folder, f"config.benchmark.sets: {spec.name}: ")


def _check_source(text: str) -> None:
    """Check KIND:PATH, or a path alone."""
    from tpgdiff_jax.data.open_source import refuse_address
    from tpgdiff_jax.data.training_data import folder_or_source

    key = "data.train_sources, data.eval_folder"
    spec = folder_or_source(text, key)
    check(spec["path"], f"config.{key}: ")
    refuse_address(spec["kind"], spec["path"])
