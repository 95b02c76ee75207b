"""The training loop: set up, resume where the run stopped, step, report, save.

Running the same command again continues the same run: the checkpoint holds the state and the place
in the data, and random draws depend on the step's number alone.
"""

import contextlib
import math
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax import config as configuration
from tpgdiff_jax.checkpoints.manager import RunCheckpoints, abstract
from tpgdiff_jax.data.pipeline import training_batches
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.training.diffusion_step import make_train_step
from tpgdiff_jax.training.reporting import RunReport
from tpgdiff_jax.training.state import TrainState, create_state, make_optimizer


class NonFiniteLossError(Exception):
    """Training met a loss that is NaN or infinite."""


def prepare_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Make the run's folder, or check that the run in it is this one.

    Raises:
      ValueError: the folder cannot be written, holds another configuration's run, or holds files
        that are no run's; says which and what to do.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir, prefix="."):
            pass
    except OSError as error:
        raise ValueError(
            f"--workdir={workdir} cannot be written ({error.strerror}); choose another folder."
        ) from error
    path = workdir / "config.json"
    if path.exists():
        changed = configuration.differences(config, path)
        if changed:
            raise ValueError(
                f"--workdir={workdir} holds a run with another configuration; continue it with "
                "that one, or choose another folder. Different keys:\n  " + "\n  ".join(changed)
            )
        return
    strangers = sorted(p.name for p in workdir.iterdir() if not p.name.startswith("."))
    if strangers:
        raise ValueError(
            f"--workdir={workdir} holds files but no run (no config.json): "
            f"{', '.join(strangers[:5])}. Choose an empty or a new folder."
        )


def write_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Store the resolved configuration of a run, once; the first process writes for all."""
    path = workdir / "config.json"
    if jax.process_index() == 0 and not path.exists():
        temporary = workdir / ".config.json.partial"
        temporary.write_text(configuration.to_json(config))
        os.replace(temporary, path)


def open_photos(config: ConfigDict) -> PhotoFolder:
    """Scan the training photos of a configuration.

    Raises:
      ValueError: no folder is named, or nothing in it is usable.
    """
    data = config.data
    if not data.train_folder:
        raise ValueError("config.data.train_folder is empty; name a folder of clean photos.")
    return PhotoFolder(data.train_folder, min_size=data.crop_size, cache_mb=data.cache_mb)


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


def train(config: ConfigDict, workdir: pathlib.Path, photos: PhotoFolder, mesh: Mesh) -> TrainState:
    """Train until `config.optim.steps`, continuing a run that is already in `workdir`.

    Args:
      config: a whole, valid configuration.
      workdir: the run's folder, prepared by `prepare_workdir`.
      photos: the training photos.
      mesh: the devices to train on.

    Returns:
      the final state.

    Raises:
      NonFiniteLossError: the loss became NaN or infinite; nothing of that step is saved.
    """
    write_config(config, workdir)
    model = tpgdiff.build(config)
    make_state, shapes, shardings = init_state(config, mesh, model)
    with RunCheckpoints(workdir / "checkpoints", keep=config.checkpoint.keep) as checkpoints:
        batches = iter(
            training_batches(
                photos,
                seed=config.seed,
                crop_size=config.data.crop_size,
                batch_size=config.data.batch_size,
                degradations=config.data.degradations,
                read_threads=config.data.read_threads,
                prefetch_batches=config.data.prefetch_batches,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
        )
        start = checkpoints.latest_step()
        if start is None:
            state, start = make_state(), 0
            _log_model(state, mesh)
        else:
            state = checkpoints.restore(start, abstract(shapes, shardings), batches)
            logging.info(
                "Continuing the run in %s at step %d of %d: state and place in the data restored.",
                workdir,
                start,
                config.optim.steps,
            )
        with contextlib.closing(
            RunReport(
                workdir,
                start=start,
                total=config.optim.steps,
                is_writer=jax.process_index() == 0,
            )
        ) as report:
            state = _loop(config, mesh, model, state, shardings, batches, checkpoints, report)
    logging.info("Training data: %s.", photos.summary())
    return state


def _loop(
    config: ConfigDict,
    mesh: Mesh,
    model: tpgdiff.TPGDiff,
    state: TrainState,
    shardings: Any,
    batches: grain.DatasetIterator,
    checkpoints: RunCheckpoints,
    report: RunReport,
) -> TrainState:
    start, total = int(state.step), config.optim.steps
    images = sharding.batch_sharding(mesh, 4)
    step_fn = make_train_step(
        model,
        IRSDE(**config.diffusion),
        make_optimizer(config.optim),
        config,
        state_shardings=shardings,
        batch_shardings={"gt": images, "lq": images, "label": sharding.batch_sharding(mesh, 1)},
        replicated=sharding.replicated(mesh),
    )
    # Made by a compiled program, since the mesh may span several processes.
    make_key = jax.jit(jax.random.key, out_shardings=sharding.replicated(mesh))
    key = make_key(config.seed + 1)
    pending = []
    for step in range(start + 1, total + 1):
        batch = sharding.to_global(next(batches), mesh)
        state, metrics = step_fn(state, batch, key)
        pending.append(metrics)
        report.advance()
        is_save = step % config.checkpoint.every_steps == 0 or step == total
        if is_save or step % config.log.every_steps == 0:
            # The only place where the host waits for the devices.
            report.write(step, _mean_metrics(pending, step))
            pending = []
        if is_save:
            checkpoints.save(step, state, batches)
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
