"""The training loop, the same for both stages: resume where the run stopped, step, report, save.

Running the same command again continues the same run: the checkpoint holds the state and the place
in the data, and random draws depend on the step's number alone.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import grain
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of
from tpgdiff_jax.data.identity import is_same_data
from tpgdiff_jax.data.pipeline import training_batches
from tpgdiff_jax.data.training_data import TrainingData, mixture_of
from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.distributed.batches import process_share, to_global
from tpgdiff_jax.distributed.describe import describe_shardings
from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.runs.keeping import TEST
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.runs.preemption import was_interrupted
from tpgdiff_jax.runs.reading import abstract, check_frozen
from tpgdiff_jax.runs.workdir import check_there, only_run, write_config
from tpgdiff_jax.training import setup
from tpgdiff_jax.training.earlier_starts import refuse_lost
from tpgdiff_jax.training.profiling import TraceWindow
from tpgdiff_jax.training.program import batch_shapes, is_multi_hot, step_program
from tpgdiff_jax.training.provenance import record_start
from tpgdiff_jax.training.run_report import RunReport
from tpgdiff_jax.training.same_training import check_same_training
from tpgdiff_jax.training.speed import Lead, StepClock, step_flops
from tpgdiff_jax.training.stages import Stage
from tpgdiff_jax.training.state import TrainState, averaged, learning_rate_schedule
from tpgdiff_jax.training.trouble import StepRecord, Watch, recipes_of
from tpgdiff_jax.training.validate import LeftEarlyError

IsAsked = Callable[[], bool]  # whether the run is asked to end
# Scores by name, a picture uint8 [H, W, 3] or None.  The score `keeping.TEST` is a number that
# stands for what was scored, and how.
Validated = tuple[dict[str, float], np.ndarray | None]
# Averaged weights on the mesh, what is asked before each batch -> scores; else LeftEarlyError.
Validate = Callable[[Any, IsAsked], Validated]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended.

    Attributes:
      state: after the last step taken.
      is_finished: whether `optim.steps` were taken.
      is_preempted: whether the machine has asked for an end.
      is_validated: whether the last validation was of this very state.
    """

    state: TrainState
    is_finished: bool
    is_preempted: bool = False
    is_validated: bool = False


@dataclasses.dataclass(frozen=True)
class _Run:
    """What every part of the loop needs."""

    stage: Stage
    workdir: pathlib.Path
    data: TrainingData
    mesh: Mesh
    frozen: Any
    shardings: Any
    checkpoints: RunCheckpoints
    report: RunReport
    validate: Validate | None

    @property
    def config(self) -> ConfigDict:
        return self.stage.config


def train(
    stage: Stage,
    workdir: pathlib.Path,
    data: TrainingData,
    mesh: Mesh,
    frozen: Any,
    validate: Validate | None = None,
) -> Outcome:
    """Train until `config.optim.steps`, continuing a run that is already in `workdir`.

    Args:
      stage: what is trained.
      workdir: the run's folder, prepared by `prepare_workdir`.
      data: the training images.
      mesh: the devices to train on.
      frozen: the stage's frozen weights, laid out by `setup.place_frozen`.
      validate: called with the averaged weights before the first step and every `eval.every_steps`
        steps, in all processes; left when the run is asked to end.

    Returns:
      the final state; not finished if SIGTERM or Ctrl-C ended the run, which is saved then.

    Raises:
      RunStoppedError: steps that are not finite, other images or frozen weights than the run was
        started with, too many bad files, checkpoints that were there and are gone, another
        program that is training in `workdir`, or processes that do not train the same.
      CheckpointError: a checkpoint could not be written, or all of them are damaged.
    """
    with only_run(workdir):
        return _train(stage, workdir, data, mesh, frozen, validate)


def _train(stage, workdir, data, mesh, frozen, validate) -> Outcome:
    config = stage.config
    data = dataclasses.replace(
        data, fingerprint=data.fingerprint | {"frozen": fingerprint_of(stage.frozen)}
    )
    check_same_training(stage, data)  # before anything is written for all
    write_config(config, workdir)
    started = record_start(workdir)
    make_state, shapes, shardings = setup.plan_state(stage, mesh)
    metadata = {"config": json.loads(config.to_json()), "start": started}
    with setup.open_checkpoints(config, workdir, metadata) as checkpoints:
        found = checkpoints.restore_latest(abstract(shapes, shardings))
        if found is None:
            refuse_lost(workdir)
            start, state = 0, make_state()
            table = describe_shardings(
                shapes, shardings, mesh, batch_shapes(config), split_rows=setup.splits_rows(config)
            )
            logging.info("New run in %s.\n%s", workdir, table)
        else:
            start, state, place = found
            _check_place(place, start, data)
            text = "Continuing the run in %s at step %d of %d: state and place in the data restored"
            logging.info(f"{text}.", workdir, start, config.optim.steps)
        is_writer = jax.process_index() == 0
        report = RunReport(workdir, start=start, total=config.optim.steps, is_writer=is_writer)
        batches = iter(_batches(config, data, mesh, first_batch=start))
        with contextlib.closing(batches), contextlib.closing(report):
            for step, problem in checkpoints.damaged.items():
                report.event(f"{problem} Step {step} is skipped in favour of an older one.")
            run = _Run(stage, workdir, data, mesh, frozen, shardings, checkpoints, report, validate)
            outcome = _loop(run, state, start, batches)
    logging.info("Training data: %s.", data.summary())
    return outcome


def _batches(
    config: ConfigDict, data: TrainingData, mesh: Mesh, first_batch: int
) -> grain.IterDataset:
    process_index, process_count = process_share(mesh)
    same = (
        *("crop_size", "batch_size", "workers", "read_threads", "prefetch_mb"),
        *("tone_jitter", "crop_share", "dark_share", "vivid_share", "soft_share", "pale_share"),
    )
    return training_batches(
        data.sources,
        seed=config.seed,
        mixture=mixture_of(config),
        source_weights=data.weights,
        multi_hot=is_multi_hot(config),
        first_batch=first_batch,
        process_index=process_index,
        process_count=process_count,
        **{key: config.data[key] for key in same},
    )


def _check_place(place: dict[str, Any], step: int, data: TrainingData) -> None:
    """Raise unless a checkpoint's place in the data is one in these data."""
    check_frozen(place, data.fingerprint["frozen"])
    if place["batches"] != step or not is_same_data(place, data.sources):
        raise RunStoppedError(
            f"The training images are not those the run was started with: {place.get('images')} "
            f"images then, {data.fingerprint['images']} now, or other names. Put them back, or "
            "start a new run in another --workdir."
        )


def _loop(run: _Run, state: TrainState, start: int, batches: grain.DatasetIterator) -> Outcome:
    config, total = run.config, run.config.optim.steps
    frozen_shardings = jax.tree.map(lambda leaf: leaf.sharding, run.frozen)
    step_fn = step_program(run.stage, run.mesh, run.shardings, frozen_shardings)
    key, split_rows = _base_key(run), setup.splits_rows(config)
    clock, watch, lead = StepClock(), Watch(config, run.workdir, run.report.event), Lead()
    run.checkpoints.reached_preemption()
    validates = run.validate is not None and bool(config.eval.every_steps)
    # What the training is compared with.
    if start == 0 and validates and _validate(run, 0, state) is None:
        return _ended(run, state, "left the validation before the first step")
    scores = None
    with TraceWindow(run.workdir, *(config.profile_steps or (None, None))) as trace:
        for step in range(start + 1, total + 1):
            with trace.step(step) as traced:
                with clock.waiting_for_data():
                    example = next(batches)
                batch = {name: example[name] for name in batch_shapes(config)}
                batch = to_global(batch, run.mesh, split_rows=split_rows)
                if step == start + 1:
                    step_fn, clock = _compiled(step_fn, state, run, batch, key)
                with clock.waiting_for_devices():
                    state, metrics = step_fn(state, run.frozen, batch, key)
                    lead.queued(metrics)
                traced.result = metrics
            watch.add(StepRecord(step, metrics, recipes_of(example)))
            run.report.advance()
            is_preempted = run.checkpoints.reached_preemption()
            is_last = step == total or is_preempted
            is_save = is_last or step % config.checkpoint.every_steps == 0
            is_validation = validates and step % config.eval.every_steps == 0
            is_validation &= not is_preempted  # machines that are taken away do not wait for it
            if is_save or is_validation or step % config.log.every_steps == 0:
                if jax.process_index() == 0:
                    check_there(run.workdir)
                _report(run, step, watch, clock)
            scores = None
            if is_validation:
                with clock.left_out():
                    scores = _validate(run, step, state)
                is_preempted = scores is None
            if is_save or is_validation:
                place = {"batches": step, **run.data.fingerprint}
                run.checkpoints.save(step, state, place, scores)
                run.data.check(run.config.data.max_bad_share)
            run.checkpoints.check()
            if is_preempted and step < total:
                run.checkpoints.wait()
                said = f"saved at step {step} of {total}; the same command continues there"
                if is_validation:
                    said = f"left the validation; {said}"
                return _ended(run, state, said)
        is_preempted = run.checkpoints.reached_preemption()
    return Outcome(state, True, is_preempted, is_validated=scores is not None)


def _ended(run: _Run, state: TrainState, said: str) -> Outcome:
    who = "Ctrl-C" if was_interrupted() else "SIGTERM"
    run.report.event(f"Asked to end ({who}): {said}.")
    return Outcome(state, is_finished=False, is_preempted=True)


def _base_key(run: _Run) -> jax.Array:
    # Made by a compiled program, since the mesh may span several processes.  The seed is a part of
    # it: an argument would have to fit into int32.
    seed = run.config.seed + 1
    return jax.jit(lambda: jax.random.key(seed), out_shardings=sharding.replicated(run.mesh))()


def _compiled(step_fn, state, run: _Run, batch, key) -> tuple[Any, StepClock]:
    """Compile the step, once, and start to measure after that."""
    compiled = step_fn.lower(state, run.frozen, batch, key).compile()
    flops = step_flops(compiled, loop_turns=run.config.optim.accumulate)
    return compiled, StepClock(flops_per_step=flops)


def _report(run: _Run, step: int, watch: Watch, clock: StepClock) -> None:
    """Write the metrics of the steps since the last report; the host waits for the devices here."""
    with clock.waiting_for_devices():
        steps = watch.pending
        metrics = watch.collect()
    rate = learning_rate_schedule(run.config.optim)(step - 1)
    speed = clock.summary(steps, steps * run.config.data.batch_size)
    speed = {f"speed/{name}": value for name, value in speed.items()}
    run.report.write(step, metrics | {"learning_rate": float(rate)} | speed)


def _validate(run: _Run, step: int, state: TrainState) -> dict[str, float] | None:
    """Score a state and report it; None where the run was asked to end meanwhile."""
    try:
        average = averaged(state, run.config)
        scores, picture = run.validate(average, run.checkpoints.reached_preemption)
    except LeftEarlyError:
        return None
    shown = {f"validation/{name}": value for name, value in scores.items() if name != TEST}
    run.report.write(step, shown)
    if picture is not None:
        run.report.picture("validation", picture, step)
    return scores
