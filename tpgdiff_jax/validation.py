"""Check a configuration before any device is touched or any folder made."""

from ml_collections import ConfigDict

from tpgdiff_jax.config import get
from tpgdiff_jax.data.degradations.mix import DEGRADATIONS
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.loss import DISTANCES, OBJECTIVES
from tpgdiff_jax.diffusion.prediction import PREDICTIONS
from tpgdiff_jax.diffusion.samplers import check_sampler
from tpgdiff_jax.training.state import OPTIMIZERS


def validate(config: ConfigDict) -> None:
    """Check every value that can be checked without touching a device or a file.

    Raises:
      ValueError: naming the key, its value and what is expected.
    """
    sde = IRSDE(**config.diffusion)
    check_sampler(config.eval.sampler, sde, config.eval.steps)
    one_of = (
        ("model.prediction", PREDICTIONS),
        ("model.dtype", ("float32", "bfloat16")),
        ("model.param_dtype", ("float32", "bfloat16")),
        ("loss.objective", OBJECTIVES),
        ("loss.distance", DISTANCES),
        ("optim.name", OPTIMIZERS),
    )
    for key, choices in one_of:
        _require(get(config, key) in choices, config, key, f"one of {', '.join(choices)}")
    # The other cues need their networks, or a caller who gives the maps.
    for key, choices in (("data.degradations", DEGRADATIONS), ("priors.cues", ("dog",))):
        value = get(config, key)
        expected = f"a non-empty tuple out of {', '.join(choices)}"
        _require(len(value) > 0 and set(value) <= set(choices), config, key, expected)
    positive = (
        "model.width model.attention_heads model.head_dim data.crop_size data.batch_size "
        "data.read_threads data.prefetch_batches optim.steps optim.learning_rate ema.every_steps "
        "checkpoint.every_steps checkpoint.keep log.every_steps eval.batch_size loss.time_power "
        "priors.map_size priors.tokens"
    )
    for key in positive.split():
        _require(get(config, key) > 0, config, key, "a positive number")
    for key in ("optim.clip_norm", "optim.warmup_steps", "eval.crop_size", "data.cache_mb"):
        _require(get(config, key) >= 0, config, key, "zero or more")
    _require(config.model.width % 2 == 0, config, "model.width", "an even number")
    _require(0 <= config.ema.decay < 1, config, "ema.decay", "a number in [0, 1)")
    if config.model.use_semantic:
        _check_transformer_widths(config)


def _check_transformer_widths(config: ConfigDict) -> None:
    """The deepest level and the middle hold transformers: group norm of 32, heads of head_dim."""
    widths = [config.model.width * m for m in (1, *config.model.multipliers)][-2:]
    expected = (
        f"multipliers whose two deepest widths, here {widths}, are multiples of 32 and of "
        f"model.head_dim={config.model.head_dim} (or set model.use_semantic=False)"
    )
    fits = all(w % 32 == 0 and w % config.model.head_dim == 0 for w in widths)
    _require(fits, config, "model.multipliers", expected)


def _require(condition: bool, config: ConfigDict, key: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"config.{key}={get(config, key)!r}: expected {expected}.")
