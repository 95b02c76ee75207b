"""One experiment from configuration to published weights: its stages in turn, each scored."""

import copy
import json
import pathlib
import platform
import zlib
from typing import Any

import jax
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints import aside, published
from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of, groups_of
from tpgdiff_jax.config import stage_config
from tpgdiff_jax.data.sources import Source
from tpgdiff_jax.data.training_data import open_training_data
from tpgdiff_jax.distributed import machines, sharding
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.runs.keeping import TEST
from tpgdiff_jax.runs.preemption import Preemption
from tpgdiff_jax.runs.reading import gather
from tpgdiff_jax.runs.workdir import check_same_run, prepare_workdir, writing
from tpgdiff_jax.stores.places import shown
from tpgdiff_jax.training import setup
from tpgdiff_jax.training import train as training
from tpgdiff_jax.training.earlier_starts import ema_decay, is_stage_one_finished
from tpgdiff_jax.training.eval_data import open_eval_data
from tpgdiff_jax.training.same_training import check_same_stages
from tpgdiff_jax.training.stages import (
    Stage,
    build_stage,
    check_structure_weights,
    read_start,
    validate_training,
    validate_weights,
)
from tpgdiff_jax.training.state import TrainState, averaged
from tpgdiff_jax.training.validate import LeftEarlyError, chosen, evaluate, never
from tpgdiff_jax.training.validate_stage_one import StageOneScores, evaluate_stage_one
from tpgdiff_jax.training.validation_report import REPORT, Report

Scores = Report | StageOneScores


def stages_of(config: ConfigDict, workdir: pathlib.Path) -> list[tuple[ConfigDict, pathlib.Path]]:
    """Return each stage's configuration and folder, in the order in which they run.

    `both` gives each stage a folder of its own below `workdir`, and stage two learns from the
    weights that stage one leaves in the first.
    """
    if config.stage != "both":
        return [(stage_config(config, config.stage), workdir)]
    first, second = workdir / "priors", workdir / "diffusion"
    with_priors = copy.deepcopy(config)
    with with_priors.unlocked():
        with_priors.priors.stage_one = str(first)
    return [
        (stage_config(config, "priors"), first),
        (stage_config(with_priors, "diffusion"), second),
    ]


def train(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Train (or continue) every stage of an experiment, score and publish what each has learned.

    Returns:
      False where SIGTERM or Ctrl-C ended it early; the same command continues it.
    """
    check_same_stages(config)
    validate_training(config)
    validate_weights(config)
    plan = stages_of(config, workdir)
    for each, folder in plan:
        prepare_workdir(each, folder)
        setup.make_checked_mesh(each)  # of all stages, before the first one is trained
    if config.stage == "both":
        check_structure_weights(config)
        read_start(plan[-1][0])
        if all(gather(is_stage_one_finished(*plan[0]))):
            logging.info("Stage one is finished: %s.", shown(plan[0][1] / published.WEIGHTS_NAME))
            plan = plan[1:]
    return all(_train_stage(each, folder) for each, folder in plan)


def _train_stage(config: ConfigDict, workdir: pathlib.Path) -> bool:
    # One list of bad files for all processes of this machine.
    data = open_training_data(config, workdir / f"skipped_{platform.node()}.jsonl")
    data.check(config.data.max_bad_share)
    logging.info("Training data: %s.", data.summary())
    source = open_eval_data(config, data.sources)
    if source is None and config.eval.every_steps:
        text = "config.eval.every_steps=%d, but config.data.eval_folder is empty: no validation."
        logging.warning(text, config.eval.every_steps)
    stage = build_stage(config)
    mesh = setup.make_checked_mesh(config)
    frozen = setup.place_frozen(stage, mesh)
    scored: list[Scores] = []
    validate = None if source is None else _validation(stage, source, frozen, mesh, scored)
    outcome = training.train(stage, workdir, data, mesh, frozen, validate)
    if not outcome.is_finished:
        return False
    path = workdir / published.WEIGHTS_NAME
    # The next stage reads them: in a store's copies, each machine its own.
    writer = machines.sharing(workdir)[jax.process_index()]
    publish(stage, outcome.state, mesh, path, is_new=False, writer=writer)
    if outcome.is_preempted:
        return False
    if source is None:
        return True
    is_known = outcome.is_validated and len(chosen(source, config.eval.photos)) == len(source)
    found = scored[-1] if is_known else None
    with Preemption() as preemption:
        try:
            params, is_asked = averaged(outcome.state, config), preemption.reached
            score(stage, workdir, source, params, frozen, mesh, found, is_asked_to_end=is_asked)
        except LeftEarlyError:
            return False
    return True


def load(
    config: ConfigDict, workdir: pathlib.Path
) -> tuple[Stage, pathlib.Path, TrainState, Mesh, Any]:
    """Read the newest checkpoint of an experiment's last stage; nothing is written.

    Returns:
      (the stage, its folder, the state, the mesh it lies on, the frozen weights on it).

    Raises:
      UserError: the folder holds no such run; none is made.
    """
    config, workdir = stages_of(config, workdir)[-1]
    if not (workdir / "config.json").is_file():
        raise UserError(
            f"--workdir={workdir} holds no run (no config.json); train first, or name the "
            "folder of a run. Published weights are scored with --checkpoint."
        )
    validate_weights(config)
    check_same_run(config, workdir)
    stage = build_stage(config)
    mesh = setup.make_checked_mesh(config)
    state = setup.load_state(stage, workdir, mesh, config.eval.which)
    return stage, workdir, state, mesh, setup.place_frozen(stage, mesh)


def publish(
    stage: Stage,
    state: TrainState,
    mesh: Mesh,
    path: pathlib.Path,
    *,
    is_new: bool = True,
    dtype: str = "float32",
    writer: int = 0,
) -> None:
    """Write the averaged weights as one file that restores images, or that stage two learns from.

    Args:
      stage, state, mesh: what was trained; all processes must call.
      path: the `.safetensors` file.
      is_new: whether it is an error that the file exists; else it is left alone if it holds these
        very weights, and set aside if it holds others.
      dtype: in which kernels are stored, see `published.save`.
      writer: the process that writes what this one will read.
    """
    params = _on_host(averaged(state, stage.config), mesh)
    if jax.process_index() == writer:
        with writing(shown(path)):
            _publish(stage, params, int(state.step), path, is_new, dtype)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"published {path.name}")  # the next stage reads it


def _publish(
    stage: Stage, params: Any, step: int, path: pathlib.Path, is_new: bool, dtype: str
) -> None:
    frozen = stage.frozen if stage.config.stage == "diffusion" else {}
    groups = groups_of({"params": params, "frozen": frozen})
    description = published.describe(stage.config) | {
        "stage": stage.config.stage,
        "trained_steps": step,
        "ema_decay": ema_decay(stage.config),
    }
    if not is_new and aside.there(path):
        if path.exists() and published.load(path, ())[0].get("weights") == fingerprint_of(groups):
            return
        moved = ", ".join(map(str, aside.set_aside(path)))
        logging.warning("What was published here before is set aside: %s.", moved)
    published.save(path, groups, description, dtype)
    logging.info("Weights: %s, described in the .json beside it.", shown(path))


def _validation(
    stage: Stage, source: Source, frozen: Any, mesh: Mesh, scored: list[Scores]
) -> training.Validate:
    """Return what scores averaged weights on a few images while they are trained.

    Args:
      stage, source, frozen, mesh: what is scored, and where.
      scored: holds the newest scores, once there are some.
    """
    most = stage.config.eval.photos
    test = {TEST: _test_number(stage.config, source, most)}

    def validate(params: Any, is_asked: training.IsAsked) -> training.Validated:
        found = _scores(stage, source, params, frozen, mesh, is_asked, most)
        scored[:] = [found]
        if isinstance(found, StageOneScores):
            return found.metrics() | test, None
        means = found.means()
        scores = {f"gain_{name}": row["gain"] for name, row in means.items()}
        scores |= {"psnr": means["mean"]["psnr"], "ssim": means["mean"]["ssim"]}
        return scores | test, found.picture()

    return validate


def _scores(
    stage: Stage,
    source: Source,
    params: Any,
    frozen: Any,
    mesh: Mesh,
    is_asked_to_end: training.IsAsked,
    most: int | None = None,
) -> Scores:
    config, limits = stage.config, {"most": most, "is_asked_to_end": is_asked_to_end}
    if config.stage == "priors":
        params = _on_host(params, mesh)
        return evaluate_stage_one(params, stage.frozen, config, source, **limits)
    variables = {"params": params, "frozen": frozen}
    return Report(evaluate(variables, config, source, mesh=mesh, **limits))


def _test_number(config: ConfigDict, source: Source, most: int) -> float:
    """Return a number that differs where scores of two validations must not be compared."""
    ways = {k: v for k, v in config.eval.items() if k not in ("every_steps", "which", "batch_size")}
    names = [source.name(index) for index in chosen(source, most)]
    return float(zlib.crc32(json.dumps([ways, names], sort_keys=True).encode()))


def score(
    stage: Stage,
    workdir: pathlib.Path,
    source: Source,
    params: Any,
    frozen: Any,
    mesh: Mesh,
    found: Scores | None = None,
    *,
    is_asked_to_end: training.IsAsked = never,
) -> None:
    """Score averaged weights on all of a source, write the report and print its table.

    Args:
      stage, workdir, source, params, frozen, mesh: what is scored, and where.
      found: the scores, where all of the source was scored already.
      is_asked_to_end: asked before each batch.

    Raises:
      LeftEarlyError: the run was asked to end.
    """
    if found is None:
        found = _scores(stage, source, params, frozen, mesh, is_asked_to_end)
    if jax.process_index() != 0:
        return
    with writing(shown(workdir / REPORT)):
        picture = found.write(workdir / REPORT)
    if isinstance(found, StageOneScores):
        print(f"\nStage one, {source.unit} not trained on:\n\n{found.table()}\n")
        print(", ".join(f"{k} {v:.4f}" for k, v in found.metrics().items()), flush=True)
        return
    use = stage.config.eval
    print(f"\n{use.sampler}, {use.steps} steps, {source.unit} not trained on:\n")
    print(found.table())
    print(f"\nPicture (degraded | restored | truth): {shown(picture)}", flush=True)


def _on_host(tree: Any, mesh: Mesh) -> Any:
    """Copy arrays that may be spread over several processes to each of them."""
    whole = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))(tree)
    return jax.device_get(whole)
