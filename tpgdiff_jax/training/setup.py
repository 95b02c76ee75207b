"""From a configuration to arrays on the mesh: devices, first state, frozen weights, old runs."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of
from tpgdiff_jax.distributed import batches, sharding
from tpgdiff_jax.models.tpgdiff import row_shrinking
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.runs.reading import abstract, check_frozen
from tpgdiff_jax.training.stages import Stage
from tpgdiff_jax.training.state import TrainState, create_state, make_optimizer

# Stage one has no picture to score; see `validate_stage_one`.
BEST_BY = {"priors": "score", "diffusion": "psnr"}


def make_checked_mesh(config: ConfigDict) -> Mesh:
    """Build the mesh of a configuration over all devices, and check it; see `check_mesh`."""
    mesh = sharding.make_mesh(config.mesh)
    check_mesh(config, mesh)
    return mesh


def check_mesh(config: ConfigDict, mesh: Mesh) -> None:
    """Check that a configuration can be trained on a mesh: batch and crops divide over it.

    Raises:
      UserError: they do not, which shows the arithmetic; or the gradients would be wrong.
    """
    batch, parts = config.data.batch_size, {"accumulate": config.optim.accumulate}
    if splits_rows(config):
        batches.check_batch(mesh, batch, config.data.crop_size, **parts)
        batches.check_rows(mesh, row_shrinking(config), **parts)
    else:
        batches.check_batch(mesh, batch, mesh.shape["spatial"], **parts, prefix="stage_one.")


def splits_rows(config: ConfigDict) -> bool:
    """Tell whether image rows lie over the mesh's `spatial` axis; stage one sees whole images."""
    return config.stage == "diffusion"


def plan_state(stage: Stage, mesh: Mesh) -> tuple[Callable[[], TrainState], Any, Any]:
    """Plan the first state without making it; made, it is never whole on one device.

    Args:
      stage: what learns.
      mesh: the devices.

    Returns:
      (a function that makes the state, already laid out over the mesh; its abstract shapes; its
      shardings).
    """
    config = stage.config
    optimizer = make_optimizer(config.optim)

    def make(key: jax.Array) -> TrainState:
        return create_state(stage.init(key), optimizer, len(config.ema.more_decays))

    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(make, key)
    shardings = sharding.state_shardings(shapes, mesh, config.sharding)
    _refuse_tensor_outside_unet(shardings.params)
    # This program runs once: on a CPU, optimising it takes ten times as long as running it.
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    options = quick if mesh.devices.flat[0].platform == "cpu" else None
    jitted = jax.jit(make, out_shardings=shardings, compiler_options=options)
    return lambda: start_from(jitted(key), stage.start), shapes, shardings


def _refuse_tensor_outside_unet(shardings: Any) -> None:
    """Raise UserError where the priors' channels are split.

    Compiled by XLA (seen with jax 0.10.2), the compact and the structural encoder get wrong
    gradients then, without any error; see `distributed.rules.DEFAULT_RULES`.
    """
    for path, leaf in flatten_dict(shardings).items():
        if path[0] != "unet" and any("tensor" in (part or ()) for part in leaf.spec):
            raise UserError(
                f"config.sharding splits {'/'.join(path)!r} over `tensor`, which is known to give "
                "wrong gradients outside the UNet; let only rules that match unet/ use it."
            )


def start_from(state: TrainState, weights: Any) -> TrainState:
    """Put given weights in place of random ones, in the parameters and in all averages.

    Args:
      state: the first state, laid out over a mesh.
      weights: nested dict of numpy arrays, a part of the parameters' tree.
    """
    if not weights:
        return state

    def put(tree):
        def merge(old, new):
            if isinstance(new, dict):
                return {**old, **{name: merge(old[name], value) for name, value in new.items()}}
            return batches.place(np.asarray(new, old.dtype), old.sharding)

        return merge(tree, weights)

    more = tuple(put(average) for average in state.more_ema)
    return state.replace(params=put(state.params), ema=put(state.ema), more_ema=more)


def frozen_shardings(stage: Stage, mesh: Mesh) -> Any:
    """Return how a stage's frozen weights lie on the mesh, by the same rules as parameters."""
    weights = {"frozen": stage.frozen}
    rules = stage.config.sharding
    return sharding.infer_shardings(weights, mesh, rules, warn_if_idle=False)["frozen"]


def place_frozen(stage: Stage, mesh: Mesh) -> Any:
    """Lay a stage's frozen weights out over the mesh; see `frozen_shardings`."""
    return jax.tree.map(batches.place, stage.frozen, frozen_shardings(stage, mesh))


def open_checkpoints(
    config: ConfigDict,
    workdir: pathlib.Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    reads_only: bool = False,
) -> RunCheckpoints:
    """Open the checkpoints of a run; `metadata` is stored with every step that is saved."""
    return RunCheckpoints(
        workdir / "checkpoints",
        keep=config.checkpoint.keep,
        best_by=BEST_BY[config.stage],
        metadata=metadata,
        reads_only=reads_only,
    )


def load_state(stage: Stage, workdir: pathlib.Path, mesh: Mesh, which: str = "last") -> TrainState:
    """Read a checkpoint of a run; its folder need not be one that can be written.

    Args:
      stage: the run's.
      workdir: its folder.
      mesh: the devices the state is laid out over.
      which: `last`, or `best`: the one that scored highest when it was validated.

    Raises:
      UserError: the folder holds no such checkpoint, or it learned beside other frozen weights
        than the stage's.
      CheckpointError: it is damaged.
    """
    _, shapes, shardings = plan_state(stage, mesh)
    with open_checkpoints(stage.config, workdir, reads_only=True) as checkpoints:
        if which == "best":
            step = checkpoints.best_step()
            if step is None:
                raise UserError(
                    f"--workdir={workdir} holds no validated checkpoint; train with "
                    "--config.eval.every_steps and --config.data.eval_folder, or use the last one "
                    "(config.eval.which='last')."
                )
            state, data = checkpoints.restore(step, abstract(shapes, shardings))
        else:
            found = checkpoints.restore_latest(abstract(shapes, shardings))
            if found is None:
                raise UserError(f"--workdir={workdir} holds no complete checkpoint; train first.")
            _, state, data = found
        check_frozen(data, fingerprint_of(stage.frozen))
        return state
