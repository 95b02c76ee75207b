"""What each --mode does, from checked configuration to the last line printed."""

import pathlib
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.command_line import UserError, user_errors
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.evaluation import metrics
from tpgdiff_jax.evaluation.evaluate import evaluate
from tpgdiff_jax.evaluation.report import format_table, write_report
from tpgdiff_jax.training import train as training


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Train (or continue) the run in `workdir`, then restore photos it has not trained on."""
    with user_errors():
        training.prepare_workdir(config, workdir)
        photos = training.open_photos(config)
        logging.info("Training data: %s.", photos.summary())
        eval_photos = _open_eval_photos(config, photos)
        mesh = training.make_checked_mesh(config)
    try:
        state = training.train(config, workdir, photos, mesh)
    except training.NonFiniteLossError as error:
        raise UserError(str(error)) from error
    if eval_photos is not None:
        _evaluate(config, workdir, eval_photos, state.ema, mesh)


def eval_(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Score the newest checkpoint in `workdir` on the photos of `data.eval_folder`."""
    with user_errors():
        training.prepare_workdir(config, workdir)
        if not config.data.eval_folder:
            raise ValueError("config.data.eval_folder is empty; name a folder of photos.")
        photos = _open_eval_photos(config)
        mesh = training.make_checked_mesh(config)
        state = training.load_state(config, workdir, mesh)
    _evaluate(config, workdir, photos, state.ema, mesh)


def _open_eval_photos(
    config: ConfigDict, training_photos: PhotoFolder | None = None
) -> PhotoFolder | None:
    """Scan the evaluation photos; none of them may be among the training photos."""
    if not config.data.eval_folder:
        return None
    photos = PhotoFolder(config.data.eval_folder, min_size=metrics.SSIM_WINDOW)
    logging.info("Evaluation data: %s.", photos.summary())
    seen = {path.resolve() for path in training_photos.paths} if training_photos else set()
    shared = [str(path) for path in photos.paths if path.resolve() in seen]
    if shared:
        raise ValueError(
            f"config.data.eval_folder={config.data.eval_folder!r} shares {len(shared)} photos with "
            f"data.train_folder, the first is {shared[0]}; keep them apart."
        )
    return photos


def _evaluate(
    config: ConfigDict, workdir: pathlib.Path, photos: PhotoFolder, params: Any, mesh: Mesh
) -> None:
    # One process scores; the parameters may be spread over all of them.
    params = jax.jit(lambda p: p, out_shardings=sharding.replicated(mesh))(params)
    if jax.process_index() != 0:
        return
    params = jax.device_get(params)
    results = evaluate(params, config, photos)
    picture = write_report(results, workdir / "evaluation")
    print(f"\n{config.eval.sampler}, {config.eval.steps} steps, photos not trained on:\n")
    print(format_table(results))
    print(f"\nPicture (degraded | restored | truth): {picture.absolute()}", flush=True)
