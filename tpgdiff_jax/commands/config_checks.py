"""Check a configuration before any device is touched or any folder made."""

import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from tpgdiff_jax.backbones.transformer import ACTIVATIONS
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.config import base_config, flat_items, get, require
from tpgdiff_jax.data.degradations.mix import (
    DEGRADATIONS,
    MAX_SEVERITY,
    Mixture,
    expand,
    parse,
)
from tpgdiff_jax.data.prepare.paired_set import FORMATS
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.diffusion.loss import DISTANCES, OBJECTIVES, TIME_WEIGHTINGS
from tpgdiff_jax.diffusion.prediction import PREDICTIONS
from tpgdiff_jax.diffusion.samplers import check_sampler
from tpgdiff_jax.distributed.rules import check_rules
from tpgdiff_jax.models.stage_one import TEACHERS
from tpgdiff_jax.models.tpgdiff import ENCODERS, UNETS
from tpgdiff_jax.models.unet import REMAT
from tpgdiff_jax.native import WAYS
from tpgdiff_jax.precision import PRECISIONS
from tpgdiff_jax.priors import BRANCHES
from tpgdiff_jax.priors.cues import CUES
from tpgdiff_jax.priors.degradation import CLASSIFICATIONS
from tpgdiff_jax.training.stages import STAGES
from tpgdiff_jax.training.state import OPTIMIZERS, SCHEDULES
from tpgdiff_jax.training.step import NON_FINITE


def validate(config: ConfigDict) -> None:
    """Check every value that can be checked without touching a device or a file.

    Raises:
      UserError: naming the key, its value and what is expected.
    """
    _check_kinds(config)
    sde = IRSDE(**config.diffusion)
    check_sampler(config.eval.sampler, sde, config.eval.steps)
    read_settings(config)
    one_of = (
        ("stage", STAGES),
        ("eval.which", ("last", "best")),
        ("model.unet", UNETS),
        ("model.remat", REMAT),
        ("loss.time_weighting", TIME_WEIGHTINGS),
        ("model.prediction", PREDICTIONS),
        ("model.dtype", ("float32", "bfloat16")),
        ("model.convolutions", WAYS),
        ("model.param_dtype", ("float32", "bfloat16")),
        ("model.matmul_precision", PRECISIONS),
        ("loss.objective", OBJECTIVES),
        ("loss.distance", DISTANCES),
        ("prepare.format", FORMATS),
        ("priors.encoder", ENCODERS),
        ("priors.classification", CLASSIFICATIONS),
        ("priors.teacher", TEACHERS),
        ("priors.clip.activation", ACTIVATIONS),
        ("priors.depth_net.activation", ACTIVATIONS),
    )
    for key, choices in one_of:
        require(get(config, key) in choices, config, key, f"one of {', '.join(choices)}")
    for key, choices in (("data.degradations", DEGRADATIONS), ("priors.cues", CUES)):
        value = get(config, key)
        expected = f"a non-empty tuple out of {', '.join(choices)}"
        require(len(value) > 0 and set(value) <= set(choices), config, key, expected)
    positive = (
        "model.width model.attention_heads model.head_dim data.crop_size data.batch_size "
        "data.read_threads data.prefetch_mb data.max_mixed checkpoint.every_steps "
        "checkpoint.keep log.every_steps eval.batch_size eval.photos loss.time_power "
        "priors.map_size priors.tokens priors.depth_size priors.segmentation_size "
        "priors.clip.patch priors.clip.width priors.clip.layers priors.clip.heads "
        "priors.clip.image_size priors.clip.features priors.conv.features priors.teacher_size "
        "priors.encoder_width priors.map_width priors.map_max_width loss.least_harm "
        "benchmark.largest_whole "
        "priors.depth_net.patch priors.depth_net.width priors.depth_net.layers "
        "priors.depth_net.heads priors.depth_net.image_size priors.depth_net.fusion "
        "priors.depth_net.head priors.segmentation_net.decoder priors.segmentation_net.num_classes"
    )
    for key in positive.split():
        require(get(config, key) > 0, config, key, "a positive number")
    for key in _POSITIVE_TUPLES:
        value = get(config, key)
        fits = len(value) > 0 and all(v > 0 for v in value)
        require(fits, config, key, "a non-empty tuple of positive numbers")
    not_negative = (
        "eval.crop_size eval.every_steps data.cache_mb data.workers data.tone_jitter "
        "prepare.crop_size priors.head_blocks model.middle_blocks seed eval.seed prepare.seed "
        "benchmark.seed priors.connector_depth model.first_attention_level "
        "loss.classification_weight loss.relative_power"
    )
    for key in not_negative.split():
        require(get(config, key) >= 0, config, key, "zero or more")
    check_rules(config.sharding)
    require(config.model.width % 2 == 0, config, "model.width", "an even number")
    for prefix in ("", "stage_one."):
        _check_learning(config, prefix)
    for key in (*(f"model.dropout_{name}" for name in BRANCHES), "loss.first_step_share"):
        require(0 <= get(config, key) <= 1, config, key, "a share in [0, 1]")
    decays = (0, config.ema.decay, *config.ema.more_decays)
    expected = f"one of the averages kept: {decays}"
    require(config.eval.ema_decay in decays, config, "eval.ema_decay", expected)
    steps = config.profile_steps
    fits = len(steps) in (0, 2) and list(steps) == sorted(steps) and all(s > 0 for s in steps)
    require(fits, config, "profile_steps", "(), or the first and the last step to be traced")
    data = config.data
    Mixture(
        names=tuple(data.degradations),
        weights=tuple(data.weights),
        max_mixed=data.max_mixed,
        severity=tuple(data.severity),
        mix_share=data.mix_share,
        clean_share=data.clean_share,
    )
    for text in expand(config.prepare.recipes):
        parse(text)
    severities = config.prepare.severities
    fits = len(severities) > 0 and all(0 <= v <= MAX_SEVERITY for v in severities)
    expected = f"a non-empty tuple of severities from 0 to {MAX_SEVERITY:g}"
    require(fits, config, "prepare.severities", expected)
    fits = data.max_mixed <= len(data.degradations)
    require(fits, config, "data.max_mixed", "at most the number of data.degradations")
    multi = data.max_mixed == 1 or config.priors.classification == "multi"
    require(multi, config, "priors.classification", "'multi', since data.max_mixed is above 1")
    named = data.clean_share == 0 or config.priors.classification == "multi"
    expected = f"'multi', since data.clean_share={data.clean_share} makes examples without a class"
    require(named, config, "priors.classification", expected)
    for key in ("data.dark_share", "data.vivid_share", "data.soft_share"):
        require(0 <= get(config, key) <= 1, config, key, "a share in [0, 1]")
    require(0 <= data.max_bad_share <= 1, config, "data.max_bad_share", "a number in [0, 1]")
    smoothing = config.priors.label_smoothing
    require(0 <= smoothing < 1, config, "priors.label_smoothing", "a number in [0, 1)")
    for name in ("clip", "depth_net"):
        width, heads = (get(config, f"priors.{name}.{key}") for key in ("width", "heads"))
        require(
            width % heads == 0, config, f"priors.{name}.heads", f"a divisor of the width {width}"
        )
    if config.model.unet == "lean":
        _check_lean(config)
    elif config.model.use_semantic:
        _check_transformer_widths(config)


_WHOLE_TUPLES = (
    *("profile_steps", "benchmark.steps", "model.multipliers", "model.blocks"),
    *("optim.milestones", "stage_one.optim.milestones", "priors.conv.widths"),
    *("priors.depth_net.taps", "priors.depth_net.neck"),
    *(
        f"priors.segmentation_net.{name}"
        for name in ("widths", "depths", "heads", "reductions", "patch_sizes", "strides")
    ),
    "priors.segmentation_net.mlp_ratios",
)
_NUMBER_TUPLES = (
    *("data.weights", "data.severity", "data.crop_share", "stage_one.data.crop_share"),
    *("ema.more_decays", "stage_one.ema.more_decays", "prepare.severities"),
    "priors.depth_net.factors",
)
# Of layers, levels and widths: none may be missing or empty.
_POSITIVE_TUPLES = tuple(
    key
    for key in (*_WHOLE_TUPLES, *_NUMBER_TUPLES)
    if key.startswith(("priors.", "model.multipliers"))
)


def _check_kinds(config: ConfigDict) -> None:
    """Check that every value is of its default's kind, so that further checks can compare it.

    ConfigDict itself looks neither into tuples nor at what a whole group is replaced by.
    """
    for key, default in flat_items(base_config()):
        value = get(config, key)
        if isinstance(default, bool):
            require(isinstance(value, bool), config, key, "True or False")
        elif isinstance(default, int):
            require(_is_whole(value), config, key, "a whole number")
        elif isinstance(default, float):
            require(_is_number(value), config, key, "a finite number")
        elif isinstance(default, str):
            require(isinstance(value, str), config, key, "text")
        else:
            require(isinstance(value, tuple | list), config, key, "a tuple")
    each: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
        (_WHOLE_TUPLES, _is_whole, "a tuple of whole numbers"),
        (_NUMBER_TUPLES, _is_number, "a tuple of finite numbers"),
    )
    for keys, fits, expected in each:
        for key in keys:
            require(all(map(fits, get(config, key))), config, key, expected)
    require(len(config.data.severity) == 2, config, "data.severity", "the least and the most")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _check_learning(config: ConfigDict, prefix: str) -> None:
    """Check what decides how a stage learns; stage one's keys have a prefix."""

    def check(key: str, is_valid, expected: str) -> None:
        value = get(config, f"{prefix}{key}")
        require(is_valid(value), config, f"{prefix}{key}", expected)

    choices = {"name": OPTIMIZERS, "schedule": SCHEDULES, "non_finite": NON_FINITE}
    for name, known in choices.items():
        check(f"optim.{name}", lambda v, known=known: v in known, f"one of {', '.join(known)}")
    positive = "data.batch_size data.crop_size optim.steps optim.learning_rate optim.accumulate"
    for key in (*positive.split(), "ema.every_steps"):
        check(key, lambda v: v > 0, "a positive number")
    for key in ("optim.clip_norm", "optim.warmup_steps", "optim.max_skipped", "ema.start_step"):
        check(key, lambda v: v >= 0, "zero or more")
    for key in ("optim.weight_decay", "optim.final_learning_rate"):
        check(key, lambda v: v >= 0, "zero or more")
    for key in ("optim.b1", "optim.b2"):
        check(key, lambda v: 0 <= v < 1, "a number in [0, 1)")
    check("optim.decay_factor", lambda v: 0 < v <= 1, "a number above 0, at most 1")
    check(
        "optim.milestones",
        lambda v: all(a < b for a, b in zip((0, *v), v, strict=False)),
        "numbers of steps above 0, each larger than the one before",
    )
    check("ema.decay", lambda v: 0 <= v < 1, "a number in [0, 1)")
    check("ema.more_decays", lambda v: all(0 <= x < 1 for x in v), "numbers in [0, 1)")
    parts = get(config, f"{prefix}optim.accumulate")
    check("data.batch_size", lambda v: v % parts == 0, f"a multiple of optim.accumulate={parts}")
    check(
        "data.crop_share",
        lambda v: len(v) == 0 or (len(v) == 2 and 0 < v[0] <= v[1] <= 1),
        "(), or the least and the most share of a photo",
    )


def _check_lean(config: ConfigDict) -> None:
    levels = len(config.model.multipliers)
    fits = len(config.model.blocks) == levels and all(n >= 0 for n in config.model.blocks)
    expected = f"a number of blocks for each of the {levels} levels of model.multipliers"
    require(fits, config, "model.blocks", expected)
    # The time embedding has half the width, and needs an even number of at least 4.
    fits = config.model.width % 4 == 0 and config.model.width >= 8
    require(fits, config, "model.width", "a multiple of 4, at least 8, for model.unet='lean'")
    require(all(w > 0 for w in config.priors.conv.widths), config, "priors.conv.widths", "above 0")


def _check_transformer_widths(config: ConfigDict) -> None:
    """The deepest level and the middle hold transformers: group norm of 32, heads of head_dim."""
    widths = [config.model.width * m for m in (1, *config.model.multipliers)][-2:]
    expected = (
        f"multipliers whose two deepest widths, here {widths}, are multiples of 32 and of "
        f"model.head_dim={config.model.head_dim} (or set model.use_semantic=False)"
    )
    fits = all(w % 32 == 0 and w % config.model.head_dim == 0 for w in widths)
    require(fits, config, "model.multipliers", expected)
