"""Check a configuration before any device is touched or any folder made.

First every value by itself, by the table of keys; then what two or more keys mean together.  The
choices of a key are those of the room that acts on it.
"""

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from tpgdiff_jax.benchmark.settings import METRICS, read_settings
from tpgdiff_jax.checkpoints import known
from tpgdiff_jax.config import check_values, chosen_average, get, require
from tpgdiff_jax.data.degradations.mix import DEGRADATIONS, MAX_SEVERITY, expand, parse
from tpgdiff_jax.data.prepare.paired_set import FORMATS
from tpgdiff_jax.data.training_data import mixture_of, parse_source
from tpgdiff_jax.diffusion import irsde
from tpgdiff_jax.diffusion.loss import DISTANCES, OBJECTIVES, TIME_WEIGHTINGS
from tpgdiff_jax.diffusion.samplers import SAMPLERS, check_sampler
from tpgdiff_jax.distributed.rules import check_rules
from tpgdiff_jax.evaluation.protocols import PROTOCOLS
from tpgdiff_jax.inference.passes import Passes
from tpgdiff_jax.native import WAYS
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.training.stages import STAGES
from tpgdiff_jax.training.state import OPTIMIZERS, SCHEDULES
from tpgdiff_jax.training.step import NON_FINITE

_LEARNING = {"optim.name": OPTIMIZERS, "optim.schedule": SCHEDULES, "optim.non_finite": NON_FINITE}
# What the checks of these keys await: names to choose from, or a limit.
KNOWN: dict[str, Any] = {
    **known.KNOWN,
    "stage": STAGES,
    "model.convolutions": WAYS,
    "data.degradations": DEGRADATIONS,
    "data.severity": MAX_SEVERITY,
    "loss.objective": OBJECTIVES,
    "loss.distance": DISTANCES,
    "loss.time_weighting": TIME_WEIGHTINGS,
    **_LEARNING,
    **{f"stage_one.{key}": choices for key, choices in _LEARNING.items()},
    "benchmark.protocol": ("", *PROTOCOLS),
    "benchmark.metrics": METRICS,
    "benchmark.samplers": SAMPLERS,
    "prepare.severities": MAX_SEVERITY,
    "prepare.format": FORMATS,
}


def validate(config: ConfigDict) -> None:
    """Check every value, and every combination that no run could use.

    Files and devices are not looked at; see `training.stages.validate_weights` for the files.

    Raises:
      UserError: naming the key, its value and what is expected.
    """
    check_values(config, KNOWN)
    for check in _COMBINATIONS:
        check(config)


def _check_texts(config: ConfigDict) -> None:
    """Texts that rooms read by rules of their own."""
    for text in config.data.train_sources:
        parse_source(text)
    try:
        for text in expand(config.prepare.recipes):
            parse(text)
    except UserError as error:
        raise UserError(f"config.prepare.recipes: {error}") from error
    check_rules(config.sharding)
    read_settings(config)


def _check_sampling(config: ConfigDict) -> None:
    """Some samplers take the SDE's own number of steps."""
    sde = irsde.IRSDE(**config.diffusion)
    try:
        check_sampler(config.eval.sampler, sde, config.eval.steps)
        Passes.of(config.eval.passes, config)
    except UserError as error:
        raise UserError(f"config.eval: {error}") from error


def _check_mesh(config: ConfigDict) -> None:
    """Only one axis can take the devices that are left."""
    rest = [axis for axis, size in config.mesh.items() if size == -1]
    expected = f"-1 for one axis at most, but {' and '.join(rest)} have it"
    require(len(rest) <= 1, config, f"mesh.{rest[-1] if rest else 'data'}", expected)


def _check_mixture(config: ConfigDict) -> None:
    """Shares and numbers of degradations fit their list."""
    data = config.data
    names = data.degradations
    require(len(set(names)) == len(names), config, "data.degradations", "each name once")
    fits = data.max_mixed <= len(names)
    require(fits, config, "data.max_mixed", f"at most {len(names)}, as many as data.degradations")
    mixture_of(config)


def _check_classification(config: ConfigDict) -> None:
    """An image without one single class needs labels that can say so."""
    if config.priors.classification == "multi":
        return
    expected = "'multi', since data.max_mixed is above 1"
    require(config.data.max_mixed == 1, config, "priors.classification", expected)
    clean = config.data.clean_share
    expected = f"'multi', since data.clean_share={clean} makes examples without a class"
    require(clean == 0, config, "priors.classification", expected)


def _check_batches(config: ConfigDict) -> None:
    """A batch can be cut into its parts."""
    for prefix in ("", "stage_one."):
        parts, key = get(config, f"{prefix}optim.accumulate"), f"{prefix}data.batch_size"
        expected = f"a multiple of {prefix}optim.accumulate={parts}"
        require(get(config, key) % parts == 0, config, key, expected)


def _check_frozen_networks(config: ConfigDict) -> None:
    """Sizes of the frozen networks fit each other."""
    for name in ("clip", "depth_net"):
        sizes = config.priors[name]
        _require_divisor(config, f"priors.{name}.heads", sizes.heads, sizes.width)
        fits = sizes.patch <= sizes.image_size
        expected = f"at most priors.{name}.image_size={sizes.image_size}"
        require(fits, config, f"priors.{name}.patch", expected)
    depth, stages = config.priors.depth_net, config.priors.segmentation_net
    expected = f"numbers of blocks, at most priors.depth_net.layers={depth.layers}"
    require(depth.taps[-1] <= depth.layers, config, "priors.depth_net.taps", expected)
    for name in ("neck", "factors"):
        _require_length(config, f"priors.depth_net.{name}", "priors.depth_net.taps")
    for name in ("depths", "heads", "reductions", "patch_sizes", "strides", "mlp_ratios"):
        _require_length(config, f"priors.segmentation_net.{name}", "priors.segmentation_net.widths")
    for heads, width in zip(stages.heads, stages.widths, strict=True):
        _require_divisor(config, "priors.segmentation_net.heads", heads, width)


def _require_divisor(config: ConfigDict, key: str, heads: int, width: int) -> None:
    require(width % heads == 0, config, key, f"a divisor of the width {width}")


def _require_length(config: ConfigDict, key: str, other: str) -> None:
    length = len(get(config, other))
    expected = f"{length} numbers, one for each of {other}"
    require(len(get(config, key)) == length, config, key, expected)


def _check_unet(config: ConfigDict) -> None:
    """Widths suit the layers that have them."""
    model = config.model
    if model.unet == "lean":
        levels = len(model.multipliers)
        expected = f"a number of blocks for each of the {levels} levels of model.multipliers"
        require(len(model.blocks) == levels, config, "model.blocks", expected)
        # The time embedding has half the width, and needs an even number of at least 4.
        fits = model.width % 4 == 0 and model.width >= 8
        require(fits, config, "model.width", "a multiple of 4, at least 8, for model.unet='lean'")
    elif model.use_semantic:
        # The deepest level and the middle hold transformers: group norm of 32, heads of head_dim.
        widths = [model.width * m for m in (1, *model.multipliers)][-2:]
        expected = (
            f"multipliers whose two deepest widths, here {widths}, are multiples of 32 and of "
            f"model.head_dim={model.head_dim} (or set model.use_semantic=False)"
        )
        fits = all(w % 32 == 0 and w % model.head_dim == 0 for w in widths)
        require(fits, config, "model.multipliers", expected)


_COMBINATIONS: tuple[Callable[[ConfigDict], object], ...] = (
    _check_texts,
    _check_sampling,
    _check_mesh,
    _check_mixture,
    _check_classification,
    _check_batches,
    chosen_average,
    _check_frozen_networks,
    _check_unet,
)
