"""The two stages of training, each as a network to initialise, a loss, and frozen weights."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from tpgdiff_jax.backbones.vgg import vgg16_params
from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.config import get, require, stage_config
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.models.stage_one import build_stage_one
from tpgdiff_jax.models.tpgdiff import TAUGHT_ENCODERS
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.training import diffusion_step, priors_step
from tpgdiff_jax.training.step import Loss

STAGES = ("priors", "diffusion", "both")


@dataclasses.dataclass(frozen=True)
class Stage:
    """What the training loop needs to know of a stage.

    Attributes:
      config: the configuration as this stage sees it, see `config.stage_config`.
      init: key -> random parameters of all that learns; a pure function, to be compiled.
      loss_fn: see `step.Loss`.
      frozen: weights that are used but do not learn, nested dict of numpy arrays (or of shapes, see
        `build_stage`).
      start: weights that a new run starts from instead of random ones, a tree like a part of the
        parameters', of numpy arrays; {} for none.
    """

    config: ConfigDict
    init: Callable[[jax.Array], Any]
    loss_fn: Loss
    frozen: Any
    start: Any


def build_stage(config: ConfigDict, *, read: bool = True) -> Stage:
    """Build the stage that `config.stage` names and read the weights it needs; no device is used.

    Args:
      config: a whole configuration.
      read: False reads no file: `frozen` holds shapes then, and `start` nothing.

    Raises:
      UserError: a weight file cannot be read or does not fit; names the file and the field.
    """
    return (
        _priors_stage(config, read) if config.stage == "priors" else _diffusion_stage(config, read)
    )


def _priors_stage(config: ConfigDict, read: bool) -> Stage:
    networks = build_stage_one(config)
    start = {}
    if not read:
        teacher = abstract_params(networks.teacher)
    elif config.priors.teacher == "vgg":
        teacher = vgg16_params()
    else:
        teacher = published.load_clip(_file(config.priors.weights), networks.teacher)
        start = {"semantic": {"student": teacher}, "degradation": {"backbone": teacher}}
    loss_fn = functools.partial(priors_step.loss_fn, networks=networks, config=config)
    return Stage(config, networks.init, loss_fn, teacher, start)


def _diffusion_stage(config: ConfigDict, read: bool) -> Stage:
    model = tpgdiff.build(config)

    def init(key: jax.Array) -> Any:
        image = jnp.zeros((1, config.data.crop_size, config.data.crop_size, 3))
        return model.init(key, image, image, jnp.ones((1,)))["params"]

    sde = IRSDE(**config.diffusion)
    loss_fn = functools.partial(diffusion_step.loss_fn, model=model, sde=sde, config=config)
    if not read:
        frozen = abstract_params(tpgdiff.frozen_networks(model))
        return Stage(config, init, loss_fn, frozen, {})
    return Stage(config, init, loss_fn, read_frozen(config), read_start(config))


def read_start(config: ConfigDict) -> dict[str, Any]:
    """Read the weights that a new run of stage two starts from.

    Returns:
      a tree like a part of the parameters', of numpy arrays: what `init_from` holds without what
      `init_anew` names; {} where the run starts from nothing.

    Raises:
      UserError: the file cannot be read, means something else, or has no part of that name.
    """
    if not config.init_from:
        return {}
    path = _file(config.init_from)
    check_start(config, path)
    start = published.load_trained(path, tpgdiff.build(config))
    flat = flatten_dict(start, sep="/")
    anew = set()
    for part in config.init_anew:
        found = {name for name in flat if f"{name}/".startswith(f"{part.rstrip('/')}/")}
        if not found:
            parts = sorted({"/".join(name.split("/")[:2]) for name in flat})
            raise UserError(
                f"config.init_anew has {part!r}, but no weights of {config.init_from} begin so; "
                f"there are {', '.join(parts)}, and those below them."
            )
        anew |= found
    return unflatten_dict({name: flat[name] for name in flat if name not in anew}, sep="/")


def read_frozen(config: ConfigDict) -> dict[str, Any]:
    """Read the weights of the frozen networks that stage two uses.

    Returns:
      the collection `frozen`, nested dict of numpy arrays; {} where there is no such network.

    Raises:
      UserError: a file cannot be read or does not fit.
    """
    model = tpgdiff.build(config)
    if not tpgdiff.frozen_networks(model):
        return {}
    if not config.priors.stage_one:
        return published.load_frozen(_file(config.priors.weights), model)
    path = stage_one_weights(config.priors.stage_one)
    check_stage_one(config, path)
    return published.load_frozen(_file(config.priors.weights), model, stage_one=path)


def _file(text: str) -> pathlib.Path:
    """Return the file that a key with weights means, see `weights_in`; of "" one that is none."""
    return published.weights_in(text) if text else pathlib.Path()


def stage_one_weights(text: str) -> pathlib.Path:
    """Return the weights file that `priors.stage_one` means: itself, or what its run published.

    Raises:
      UserError: there is none.
    """
    path = published.weights_in(text)
    if not path.is_file():
        raise UserError(
            f"config.priors.stage_one={text!r}: {path} is missing; train stage one to its end "
            "(--config.stage=priors), which writes it."
        )
    return path


def check_structure_weights(config: ConfigDict) -> None:
    """Raise UserError unless `priors.weights` holds what the structural prior needs of it.

    For an experiment of both stages: the rest of what stage two needs comes from the first.
    """
    networks = tpgdiff.frozen_networks(tpgdiff.build(config)).get("structure", {})
    for group, network in networks.items():
        published.load_group(_file(config.priors.weights), group, network)


def check_stage_one(config: ConfigDict, path: pathlib.Path) -> None:
    """Raise UserError unless stage one learned what stage two is told; names the field."""
    sizes = config.priors[config.priors.encoder]
    fields = ["priors.encoder", *(f"priors.{config.priors.encoder}.{name}" for name in sizes)]
    if config.model.use_degradation:  # else no classifier is used
        fields += ["priors.head_blocks", "priors.classification", "data.degradations"]
    _check_fields(config, path, fields, "stage one, whose", "train stage one again")


def check_start(config: ConfigDict, path: pathlib.Path) -> None:
    """Raise UserError unless published weights mean what a run that starts from them expects."""
    fields = ["model.prediction", *(f"diffusion.{name}" for name in config.diffusion)]
    if config.priors.encoder == "compact" and config.model.use_degradation:
        fields += ["priors.classification", "data.degradations"]
    _check_fields(config, path, fields, "config.init_from, whose", "start from nothing")


def _check_fields(
    config: ConfigDict, path: pathlib.Path, fields: list[str], whose: str, instead: str
) -> None:
    then = published.described_config(published.load(path, ())[0], path)
    for field in fields:
        was, now = (_plain(source, field) for source in (then, config))
        if was != now:
            raise UserError(
                f"config.{field}={now!r} does not fit {whose} weights {path} were trained "
                f"with {was!r}; use the same value, or {instead}."
            )


def _plain(config: ConfigDict, field: str) -> Any:
    value = get(config, field)
    return list(value) if isinstance(value, list | tuple) else value


def validate_weights(config: ConfigDict) -> None:
    """Check that the networks that a run does not train have a file to come from.

    Raises:
      UserError: naming what needs `priors.weights`, and what to do.
    """
    if config.stage == "priors":
        expected = "'': stage one starts from its teacher, or from nothing"
        require(not config.init_from, config, "init_from", expected)
        _check_stage_one(config)
        return
    if config.stage == "both":
        _check_stage_one(stage_config(config, "priors"))
    if config.init_from and not _file(config.init_from).is_file():
        raise UserError(
            f"config.init_from={config.init_from!r} means {_file(config.init_from)}, which is no "
            "file; name published weights (.safetensors), the folder of a finished run, or default."
        )
    model, priors = config.model, config.priors
    unused = priors.stage_one and priors.encoder not in TAUGHT_ENCODERS
    expected = "'clip' or 'conv', since config.priors.stage_one names weights of stage one"
    require(not unused, config, "priors.encoder", expected)
    needing = []
    if priors.encoder in TAUGHT_ENCODERS and (model.use_semantic or model.use_degradation):
        if priors.stage_one:
            stage_one_weights(priors.stage_one)
        elif config.stage != "both":
            needing.append(f"priors.encoder={priors.encoder!r}")
    nets = [cue for cue in priors.cues if cue in ("depth", "segmentation")]
    if nets and model.use_structure:
        needing.append(f"priors.cues with {' and '.join(nets)}")
    if needing and not priors.weights:
        raise UserError(
            f"config.priors.weights is empty, but {', '.join(needing)} need frozen networks; name "
            "a file that --mode=convert wrote (or for the encoder a run of stage one: "
            "priors.stage_one), or choose priors.encoder='compact' and cues out of dog, gradient."
        )
    if needing and not _file(priors.weights).is_file():
        raise UserError(f"config.priors.weights={priors.weights!r} is no file.")


def _check_stage_one(config: ConfigDict) -> None:
    """Stage one trains image towers, and needs a teacher."""
    priors = config.priors
    expected = "'clip' or 'conv', which stage one trains"
    require(priors.encoder in TAUGHT_ENCODERS, config, "priors.encoder", expected)
    if priors.teacher == "vgg":
        key, wanted = f"priors.{priors.encoder}.features", 512
        require(get(config, key) == wanted, config, key, f"{wanted}, VGG's")
    elif priors.encoder == "conv":
        expected = "'vgg': only a student of CLIP's own shape learns from CLIP"
        require(False, config, "priors.teacher", expected)
    elif not _file(priors.weights).is_file():
        raise UserError(
            f"config.priors.weights={priors.weights!r} is no file, but the teacher 'clip' needs "
            "one that --mode=convert wrote of CLIP; or choose priors.teacher='vgg'."
        )


def validate_training(config: ConfigDict) -> None:
    """Check what only training asks for.

    Raises:
      UserError: naming the key, its value and what is expected.
    """
    # A step of a usual learning rate is less than bfloat16 can add to a weight.
    expected = (
        "'float32' for training, since bfloat16 rounds its small steps away (for a faster "
        "computation set model.dtype='bfloat16')"
    )
    fits = config.model.param_dtype == "float32"
    require(fits, config, "model.param_dtype", expected)
    if config.init_anew and not config.init_from:
        raise UserError(
            f"config.init_anew={tuple(config.init_anew)} names parts of the weights in "
            "config.init_from, which is empty; name the weights that the run started from."
        )
