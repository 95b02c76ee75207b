"""The configuration: made from the table of keys, checked key by key, stored and compared.

An experiment file under `configs/` calls `base_config()`, changes what differs, and returns it.
The result is locked: a key that does not exist here fails at once with the nearest valid name.
`keys/` holds the table; `docs/configuration.md` shows it.
"""

import copy
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from tpgdiff_jax.keys.checks import Check
from tpgdiff_jax.keys.table import KEYS, TABLE
from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError

_PATHS = (
    "init_from",
    "data.train_folder",
    "data.eval_folder",
    "priors.weights",
    "priors.stage_one",
)
_OF_A_MACHINE = (
    "profile_steps",
    *(f"data.{name}" for name in ("workers", "read_threads", "prefetch_mb", "cache_mb")),
)
_OF_OTHER_MODES = ("benchmark", "prepare")


def base_config() -> ConfigDict:
    """Return the released program's settings, with priors that need no frozen weights; locked.

    Image sizes are in pixels, times in steps, learning rates per step.
    """
    return ConfigDict(TABLE.defaults()).lock()


def stage_config(config: ConfigDict, stage: str) -> ConfigDict:
    """Return the configuration as one stage sees it.

    Args:
      config: a whole configuration.
      stage: `priors`: `stage_one` takes the place of `data`, `optim` and `ema`, as far as it names
        them; `diffusion`: all as it is.
    """
    config = copy.deepcopy(config)
    with config.unlocked():
        config.stage = stage
        if stage == "priors":
            for group, changes in config.stage_one.items():
                config[group].update(changes)
            # `eval.ema_decay` chooses among stage two's averages, unless stage one has it, too.
            if config.eval.ema_decay not in config.ema.more_decays:
                config.eval.ema_decay = 0.0
    return config.lock()


def chosen_average(config: ConfigDict) -> int:
    """Return which average `eval.ema_decay` names: 0 for the first, n for the n-th further one.

    Raises:
      UserError: no average of that decay is kept.
    """
    wanted, kept = config.eval.ema_decay, (config.ema.decay, *config.ema.more_decays)
    expected = f"0 or one of the averages kept: {', '.join(map(str, kept))}"
    require(wanted in (0, *kept), config, "eval.ema_decay", expected)
    return kept.index(wanted) if wanted else 0


def get(config: ConfigDict, key: str) -> Any:
    """Return the value of a dotted key, e.g. `get(config, "optim.steps")`."""
    for part in key.split("."):
        config = config[part]
    return config


def require(condition: bool, config: ConfigDict, key: str, expected: str) -> None:
    """Raise UserError, naming a dotted key and its value, unless a condition holds."""
    if not condition:
        raise UserError(f"config.{key}={get(config, key)!r}: expected {expected}.")


def check_values(config: ConfigDict, known: Mapping[str, Any] | None = None) -> None:
    """Check every value by itself, whatever its kind.

    ConfigDict looks neither into tuples nor at what a whole group is replaced by.

    Args:
      config: a whole configuration.
      known: key -> what its check awaits, see `keys.group.Key`; None leaves out the keys whose
        check awaits something.

    Raises:
      UserError: naming the key, its value, what is expected, and how to write it.
    """
    for key in KEYS:
        check = check_of(key, known)
        if check is not None:
            require(check.fits(get(config, key)), config, key, expectation(key, check))


def check_of(key: str, known: Mapping[str, Any] | None = None) -> Check | None:
    """Return the check of a key; None where it awaits what is not `known`, see `check_values`."""
    check = KEYS[key].check
    if isinstance(check, Check):
        return check
    return None if known is None else check(known[key])


def expectation(key: str, check: Check | None = None) -> str:
    """Say what a key may be, and how to write it; without a check its kind alone."""
    default = KEYS[key].default
    words = "a tuple" if isinstance(default, tuple) else "text"
    return f"{words if check is None else check.words}; {how_to_write(key)}"


def how_to_write(key: str) -> str:
    """Show a key with a valid value, as typed on the command line."""
    known = KEYS[key]
    value = known.default if known.example is None else known.example
    quoted = isinstance(value, tuple) or value == ""
    return f"for example --config.{key}=" + (f'"{value}"' if quoted else f"{value}")


def flat_items(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of every leaf.

    Raises:
      UserError: names of keys that are no texts, which an experiment file may put in.
    """
    try:
        items = config.items()
    except TypeError as error:  # they are sorted
        where = f"config.{prefix}".rstrip(".")
        raise UserError(f"{where}: expected texts for the names of its keys.") from error
    for key, value in items:
        if isinstance(value, ConfigDict):
            yield from flat_items(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def to_json(config: ConfigDict) -> str:
    """Return the resolved configuration as JSON text."""
    return json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True) + "\n"


def differences(config: ConfigDict, path: pathlib.Path) -> list[str]:
    """Compare with the configuration a run was started with.

    A key that did not exist then counts as at its default.

    Args:
      config: the configuration asked for now.
      path: the JSON that `to_json` wrote when the run was started.

    Returns:
      one "key: old -> new" line for each key that may not change within a run.

    Raises:
      UserError: the file is damaged.
    """
    remedy = "bring it back from a copy, or start a new run in another --workdir"
    old = ConfigDict(json_text.read_object(path, remedy))
    old_items = dict(flat_items(base_config())) | dict(flat_items(old))
    new_items = dict(flat_items(config))
    lines = []
    for key in sorted(old_items.keys() | new_items.keys()):
        if _is_free(key):
            continue
        was, now = (_plain(items.get(key)) for items in (old_items, new_items))
        if key == "data.train_sources":
            was, now = _without_paths(was), _without_paths(now)
        if was != now:
            lines.append(f"{key}: {was!r} -> {now!r}")
    return lines


def shared_items(config: ConfigDict) -> dict[str, Any]:
    """Return what all processes of one training must have alike: dotted key -> plain value.

    Left out are keys of other modes and what suits one machine.  A path counts as named or not:
    what lies there is compared by who reads it.
    """
    items = {}
    for key, value in flat_items(config):
        if key in _OF_A_MACHINE or key.split(".")[0] in _OF_OTHER_MODES:
            continue
        plain = _plain(value)
        if key == "data.train_sources":
            plain = _without_paths(plain)
        items[key] = bool(value) if key in _PATHS else plain
    return items


def _is_free(key: str) -> bool:
    """Tell whether a key may change within a run; of keys of other versions the group decides."""
    if key in KEYS:
        return KEYS[key].free
    return getattr(TABLE.members.get(key.split(".")[0]), "free", False)


def _without_paths(sources: Any) -> list[Any]:
    """Return what of training sources decides on the order of the data; photos may move.

    The checkpoints know what was read from them.  A text of another form stays as it is.
    """
    # Imported late: a mistyped key should not cost the import of JAX.
    from tpgdiff_jax.data.training_data import parse_source

    plain: list[Any] = []
    for text in sources if isinstance(sources, list) else [sources]:
        try:
            plain.append({k: v for k, v in parse_source(str(text)).items() if k != "path"})
        except UserError:
            plain.append(text)
    return plain


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
