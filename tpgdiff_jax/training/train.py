"""The training loop: set up, resume where the run stopped, step, report, save.

Running the same command again continues the same run: the checkpoint holds the state and the place
in the data, and random draws depend on the step's number alone.
"""

import contextlib
import math
import pathlib
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.manager import RunCheckpoints, abstract
from tpgdiff_jax.data.degradations.mix import Mixture
from tpgdiff_jax.data.pipeline import training_batches
from tpgdiff_jax.data.training_data import TrainingData
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.training.diffusion_step import make_train_step
from tpgdiff_jax.training.reporting import RunReport
from tpgdiff_jax.training.state import TrainState, create_state, make_optimizer
from tpgdiff_jax.training.workdir import write_config

# What of a batch the step needs; the recipes stay on the host.
_TO_DEVICES = ("gt", "lq", "label")


class RunStoppedError(Exception):
    """Training cannot go on; the message says why, and what to do."""


class NonFiniteLossError(RunStoppedError):
    """Training met a loss that is NaN or infinite."""


def init_state(
    config: ConfigDict, mesh: Mesh, model: tpgdiff.TPGDiff
) -> tuple[Callable[[], TrainState], Any, Any]:
    """Plan the first state without making it.

    Returns:
      (a function that makes the state, already laid out over the mesh; its abstract shapes; its
      shardings).
    """
    optimizer = make_optimizer(config.optim)

    def make(key: jax.Array) -> TrainState:
        size = config.data.crop_size
        image = jnp.zeros((1, size, size, 3))
        params = model.init(key, image, image, jnp.ones((1,)))["params"]
        return create_state(params, optimizer)

    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(make, key)
    shardings = sharding.infer_shardings(shapes, mesh, config.sharding)
    # This program runs once: on a CPU, optimising it takes ten times as long as running it.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options = quick if mesh.devices.flat[0].platform == "cpu" else None
    jitted = jax.jit(make, out_shardings=shardings, compiler_options=options)
    return lambda: jitted(key), shapes, shardings


def read_frozen(config: ConfigDict) -> dict[str, Any]:
    """Read the weights of the frozen networks that a configuration asks for; touches no device.

    Returns:
      the collection `frozen`, nested dict of numpy arrays; {} where there is no such network.

    Raises:
      ValueError: `config.priors.weights` cannot be read or does not fit.
    """
    model = tpgdiff.build(config)
    if not tpgdiff.frozen_networks(model):
        return {}
    return published.load_frozen(config.priors.weights, model)


def place_frozen(weights: dict[str, Any], config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Lay the weights of `read_frozen` out over the mesh, by the same rules as parameters."""
    shardings = sharding.infer_shardings({"frozen": weights}, mesh, config.sharding)["frozen"]
    return jax.tree.map(
        lambda value, where: jax.make_array_from_callback(
            value.shape, where, lambda index: value[index]
        ),
        weights,
        shardings,
    )


def make_checked_mesh(config: ConfigDict) -> Mesh:
    """Build the mesh of a configuration and check that batch and crops divide over it."""
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_batch(mesh, config.data.batch_size, config.data.crop_size)
    return mesh


def load_state(config: ConfigDict, workdir: pathlib.Path, mesh: Mesh) -> TrainState:
    """Read the newest checkpoint of a run.

    Raises:
      ValueError: the folder holds no complete checkpoint.
    """
    _, shapes, shardings = init_state(config, mesh, tpgdiff.build(config))
    with RunCheckpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise ValueError(f"--workdir={workdir} holds no complete checkpoint; train first.")
        return checkpoints.restore_state(step, abstract(shapes, shardings))


def train(
    config: ConfigDict,
    workdir: pathlib.Path,
    data: TrainingData,
    mesh: Mesh,
    frozen: dict[str, Any],
) -> TrainState:
    """Train until `config.optim.steps`, continuing a run that is already in `workdir`.

    Args:
      config: a whole, valid configuration.
      workdir: the run's folder, prepared by `prepare_workdir`.
      data: the training images.
      mesh: the devices to train on.
      frozen: weights of the frozen networks, laid out by `place_frozen`.

    Returns:
      the final state.

    Raises:
      NonFiniteLossError: the loss became NaN or infinite; nothing of that step is saved.
      RunStoppedError: other images than the run was started with, or too many bad files.
    """
    write_config(config, workdir)
    model = tpgdiff.build(config)
    make_state, shapes, shardings = init_state(config, mesh, model)
    with RunCheckpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        start = checkpoints.latest_step()
        if start is None:
            state, start = make_state(), 0
            _log_model(state, mesh)
        else:
            state, place = checkpoints.restore(start, abstract(shapes, shardings))
            _check_place(place, start, data)
            logging.info(
                "Continuing the run in %s at step %d of %d: state and place in the data restored.",
                workdir,
                start,
                config.optim.steps,
            )
        batches = iter(_batches(config, data, first_batch=start))
        report = RunReport(
            workdir, start=start, total=config.optim.steps, is_writer=jax.process_index() == 0
        )
        with contextlib.closing(batches), contextlib.closing(report):
            state = _loop(
                config, mesh, model, frozen, state, shardings, data, batches, checkpoints, report
            )
    logging.info("Training data: %s.", data.summary())
    return state


def _batches(config: ConfigDict, data: TrainingData, first_batch: int) -> grain.IterDataset:
    options = config.data
    return training_batches(
        data.sources,
        seed=config.seed,
        crop_size=options.crop_size,
        batch_size=options.batch_size,
        mixture=Mixture(
            tuple(options.degradations),
            tuple(options.weights),
            options.max_mixed,
            tuple(options.severity),
        ),
        source_weights=data.weights,
        multi_hot=options.max_mixed > 1,
        tone_jitter=options.tone_jitter,
        first_batch=first_batch,
        workers=options.workers,
        read_threads=options.read_threads,
        prefetch_mb=options.prefetch_mb,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _check_place(place: dict[str, Any], step: int, data: TrainingData) -> None:
    """Raise unless a checkpoint's place in the data is one in these data."""
    now = {"batches": step, **data.fingerprint}
    if place != now:
        raise RunStoppedError(
            f"The training images are not those the run was started with: {place.get('images')} "
            f"images then, {data.fingerprint['images']} now, or other names. Put them back, or "
            "start a new run in another --workdir."
        )


def _loop(
    config: ConfigDict,
    mesh: Mesh,
    model: tpgdiff.TPGDiff,
    frozen: dict[str, Any],
    state: TrainState,
    shardings: Any,
    data: TrainingData,
    batches: grain.DatasetIterator,
    checkpoints: RunCheckpoints,
    report: RunReport,
) -> TrainState:
    start, total = int(state.step), config.optim.steps
    step_fn = make_train_step(
        model,
        IRSDE(**config.diffusion),
        make_optimizer(config.optim),
        config,
        mesh=mesh,
        state_shardings=shardings,
        frozen_shardings=jax.tree.map(lambda leaf: leaf.sharding, frozen),
        batch_ndims={"gt": 4, "lq": 4, "label": 2 if config.data.max_mixed > 1 else 1},
    )
    # Made by a compiled program, since the mesh may span several processes.
    make_key = jax.jit(jax.random.key, out_shardings=sharding.replicated(mesh))
    key = make_key(config.seed + 1)
    pending = []
    for step in range(start + 1, total + 1):
        example = next(batches)
        batch = sharding.to_global({name: example[name] for name in _TO_DEVICES}, mesh)
        state, metrics = step_fn(state, frozen, batch, key)
        pending.append(metrics)
        report.advance()
        is_save = step % config.checkpoint.every_steps == 0 or step == total
        if is_save or step % config.log.every_steps == 0:
            # The only place where the host waits for the devices.
            report.write(step, _mean_metrics(pending, step))
            pending = []
        if is_save:
            checkpoints.save(step, state, {"batches": step, **data.fingerprint})
            try:
                data.check(config.data.max_bad_share)
            except ValueError as error:
                raise RunStoppedError(str(error)) from error
    return state


def _mean_metrics(pending: list[dict[str, jax.Array]], step: int) -> dict[str, float]:
    """Average the metrics of the last steps; a class that a batch lacked does not count there."""
    rows = jax.device_get(pending)
    losses = np.array([row["loss"] for row in rows])
    if not np.isfinite(losses).all():
        bad = step - len(rows) + 1 + int(np.flatnonzero(~np.isfinite(losses))[0])
        raise NonFiniteLossError(
            f"The loss of step {bad} is {losses[~np.isfinite(losses)][0]}. Lower "
            "config.optim.learning_rate or set config.optim.clip_norm; the last checkpoint is kept."
        )
    means = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], np.float64)
        values = values[~np.isnan(values)]
        means[name] = float(values.mean()) if len(values) else math.nan
    return means


def _log_model(state: TrainState, mesh: Mesh) -> None:
    counts = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part)) / 1e6
        for name, part in state.params.items()
    }
    parts = ", ".join(f"{name} {count:.2f}" for name, count in counts.items())
    logging.info(
        "New run: %.2f M parameters (%s) on %d %s device(s), mesh %s.",
        sum(counts.values()),
        parts,
        mesh.size,
        mesh.devices.flat[0].platform,
        dict(mesh.shape),
    )
