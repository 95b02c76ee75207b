"""The programs that a configuration would run, traced for devices that need not exist.

They are made by the functions that training, restoring and validation use, so what is compiled here
is what a pod would run.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.config import stage_config
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed.batches import batch_sharding
from tpgdiff_jax.distributed.describe import bytes_per_device
from tpgdiff_jax.distributed.sharding import replicated
from tpgdiff_jax.inference.batch import run_batch
from tpgdiff_jax.inference.passes import Passes
from tpgdiff_jax.models import tpgdiff
from tpgdiff_jax.planning.record import Program
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.training import setup
from tpgdiff_jax.training.program import batch_shapes, step_program
from tpgdiff_jax.training.stages import build_stage
from tpgdiff_jax.training.validate import restore_and_score

WHATS = ("train", "sample", "evaluate")


def trace(what: str, config: ConfigDict, mesh: Mesh) -> Program:
    """Trace one program of a configuration; nothing is compiled yet.

    Args:
      what: one of `WHATS`.
      config: a whole configuration; of `stage="both"` the second stage is meant, where the time
        goes.  Weights are not read: their shapes suffice.
      mesh: the devices.

    Raises:
      UserError: batch or rows do not divide over the mesh; shows the arithmetic.
    """
    config = stage_config(config, "diffusion" if config.stage == "both" else config.stage)
    if what == "train":
        return _trace_training(config, mesh)
    if config.stage == "priors":
        raise UserError(
            "config.stage='priors' trains alone: nothing restores with stage one; plan it with "
            "--what=train, or choose config.stage='diffusion'."
        )
    return _trace_restoring(config, mesh, with_scores=what == "evaluate")


def _trace_training(config: ConfigDict, mesh: Mesh) -> Program:
    setup.check_mesh(config, mesh)
    stage = build_stage(config, read=False)
    _, shapes, shardings = setup.plan_state(stage, mesh)
    where = setup.frozen_shardings(stage, mesh)
    step = step_program(stage, mesh, shardings, where)
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = batch_shapes(config)
    return Program(
        lowered=step.lower(shapes, stage.frozen, batch, key),
        images=config.data.batch_size,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes.params)),
        parameter_bytes=bytes_per_device(shapes.params, shardings.params),
        optimizer_bytes=bytes_per_device(shapes.opt_state, shardings.opt_state),
        average_bytes=bytes_per_device(
            (shapes.ema, shapes.more_ema), (shardings.ema, shardings.more_ema)
        ),
    )


def _trace_restoring(config: ConfigDict, mesh: Mesh, *, with_scores: bool) -> Program:
    """Trace what `--mode=restore` does to a batch, or what validation does to one."""
    model, sde = tpgdiff.build(config), IRSDE(**config.diffusion)
    whole = replicated(mesh)
    params = jax.eval_shape(lambda key: _random_params(model, key), jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf.update(dtype=config.model.param_dtype), params)
    frozen = build_stage(config, read=False).frozen
    variables = {"params": params, "frozen": frozen}
    variables = jax.tree.map(lambda leaf: leaf.update(sharding=whole), variables)
    parts, side = mesh.shape["data"] * mesh.shape["fsdp"], config.eval.crop_size
    count = -(-config.eval.batch_size // parts) * parts
    images = jax.ShapeDtypeStruct((count, side, side, 3), jnp.uint8)
    how = {name: config.eval[name] for name in ("sampler", "steps", "clamp")}
    how["passes"] = Passes.of(config.eval.passes, config)
    how["prediction"] = config.model.prediction
    if with_scores:
        images = images.update(sharding=batch_sharding(mesh, 4, split_rows=False))
        names = jax.ShapeDtypeStruct(
            (count,), jnp.uint32, sharding=batch_sharding(mesh, 1, split_rows=False)
        )
        lowered = restore_and_score.lower(
            variables,
            images,
            images,
            names,
            model=model,
            sde=sde,
            seed=config.eval.seed,
            mesh=mesh,
            options=tuple(how.items()),
        )
    else:
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
        lowered = run_batch.lower(
            variables,
            images.update(sharding=batch_sharding(mesh, 4)),
            keys.update(sharding=whole),
            model=model,
            sde=sde,
            mesh=mesh,
            **how,
        )
    return Program(
        lowered=lowered,
        images=count,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        parameter_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables)),
    )


def _random_params(model: tpgdiff.TPGDiff, key: jax.Array) -> Any:
    image = jnp.zeros((1, 64, 64, 3))
    return model.init(key, image, image, jnp.ones((1,)))["params"]
