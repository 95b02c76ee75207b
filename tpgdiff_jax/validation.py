"""Check a configuration before any device is touched or any folder made."""

import pathlib

from ml_collections import ConfigDict

from tpgdiff_jax.backbones.transformer import ACTIVATIONS
from tpgdiff_jax.config import get
from tpgdiff_jax.data.degradations.mix import DEGRADATIONS, Mixture, expand, parse
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.loss import DISTANCES, OBJECTIVES
from tpgdiff_jax.diffusion.prediction import PREDICTIONS
from tpgdiff_jax.diffusion.samplers import check_sampler
from tpgdiff_jax.evaluation.settings import read_settings
from tpgdiff_jax.models.tpgdiff import ENCODERS
from tpgdiff_jax.priors.cues import CUES
from tpgdiff_jax.priors.degradation import CLASSIFICATIONS
from tpgdiff_jax.training.priors_step import TEACHERS
from tpgdiff_jax.training.state import OPTIMIZERS

FORMATS = ("folder", "records", "tfds")


def validate(config: ConfigDict) -> None:
    """Check every value that can be checked without touching a device or a file.

    Raises:
      ValueError: naming the key, its value and what is expected.
    """
    sde = IRSDE(**config.diffusion)
    check_sampler(config.eval.sampler, sde, config.eval.steps)
    read_settings(config)
    one_of = (
        ("model.prediction", PREDICTIONS),
        ("model.dtype", ("float32", "bfloat16")),
        ("model.param_dtype", ("float32", "bfloat16")),
        ("loss.objective", OBJECTIVES),
        ("loss.distance", DISTANCES),
        ("optim.name", OPTIMIZERS),
        ("prepare.format", FORMATS),
        ("priors.encoder", ENCODERS),
        ("priors.classification", CLASSIFICATIONS),
        ("priors.teacher", TEACHERS),
        ("priors.clip.activation", ACTIVATIONS),
        ("priors.depth_net.activation", ACTIVATIONS),
    )
    for key, choices in one_of:
        _require(get(config, key) in choices, config, key, f"one of {', '.join(choices)}")
    for key, choices in (("data.degradations", DEGRADATIONS), ("priors.cues", CUES)):
        value = get(config, key)
        expected = f"a non-empty tuple out of {', '.join(choices)}"
        _require(len(value) > 0 and set(value) <= set(choices), config, key, expected)
    positive = (
        "model.width model.attention_heads model.head_dim data.crop_size data.batch_size "
        "data.read_threads data.prefetch_mb data.max_mixed optim.steps optim.learning_rate "
        "ema.every_steps checkpoint.every_steps checkpoint.keep log.every_steps eval.batch_size "
        "loss.time_power "
        "priors.map_size priors.tokens priors.depth_size priors.segmentation_size "
        "priors.clip.patch priors.clip.width priors.clip.layers priors.clip.heads "
        "priors.clip.image_size priors.clip.features"
    )
    for key in positive.split():
        _require(get(config, key) > 0, config, key, "a positive number")
    not_negative = (
        "optim.clip_norm optim.warmup_steps eval.crop_size data.cache_mb data.workers "
        "data.tone_jitter prepare.crop_size"
    )
    for key in not_negative.split():
        _require(get(config, key) >= 0, config, key, "zero or more")
    _require(config.model.width % 2 == 0, config, "model.width", "an even number")
    _require(0 <= config.ema.decay < 1, config, "ema.decay", "a number in [0, 1)")
    data = config.data
    Mixture(tuple(data.degradations), tuple(data.weights), data.max_mixed, tuple(data.severity))
    for text in expand(config.prepare.recipes):
        parse(text)
    fits = data.max_mixed <= len(data.degradations)
    _require(fits, config, "data.max_mixed", "at most the number of data.degradations")
    multi = data.max_mixed == 1 or config.priors.classification == "multi"
    _require(multi, config, "priors.classification", "'multi', since data.max_mixed is above 1")
    _require(0 <= data.max_bad_share <= 1, config, "data.max_bad_share", "a number in [0, 1]")
    smoothing = config.priors.label_smoothing
    _require(0 <= smoothing < 1, config, "priors.label_smoothing", "a number in [0, 1)")
    for name in ("clip", "depth_net"):
        width, heads = (get(config, f"priors.{name}.{key}") for key in ("width", "heads"))
        _require(
            width % heads == 0, config, f"priors.{name}.heads", f"a divisor of the width {width}"
        )
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


def validate_weights(config: ConfigDict) -> None:
    """Check that the frozen networks a run needs have a file to come from.

    Raises:
      ValueError: naming what needs `priors.weights`, and what to do.
    """
    model, priors = config.model, config.priors
    needing = []
    if priors.encoder == "clip" and (model.use_semantic or model.use_degradation):
        needing.append("priors.encoder='clip'")
    nets = [cue for cue in priors.cues if cue in ("depth", "segmentation")]
    if nets and model.use_structure:
        needing.append(f"priors.cues with {' and '.join(nets)}")
    if needing and not priors.weights:
        raise ValueError(
            f"config.priors.weights is empty, but {', '.join(needing)} need frozen networks; name "
            "a file that --mode=convert wrote, or choose priors.encoder='compact' and cues out of "
            "dog, gradient."
        )
    if needing and not pathlib.Path(priors.weights).is_file():
        raise ValueError(f"config.priors.weights={priors.weights!r} is no file.")


def _require(condition: bool, config: ConfigDict, key: str, expected: str) -> None:
    if not condition:
        raise ValueError(f"config.{key}={get(config, key)!r}: expected {expected}.")
