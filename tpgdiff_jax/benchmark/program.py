"""What runs on the devices: restore one bucket's images, and score them.

With `exact` every device works on one image at a time, so that the compiled program of a bucket
is the same whatever the number of images, devices and processes; then no digit can differ.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from tpgdiff_jax.benchmark.settings import Variant
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed.batches import place
from tpgdiff_jax.distributed.sharding import AXES, make_mesh, replicated
from tpgdiff_jax.evaluation import perceptual
from tpgdiff_jax.evaluation.protocols import SCORES, Protocol, as_scored, scores
from tpgdiff_jax.inference.batch import noise_keys, run_batch
from tpgdiff_jax.inference.guidance import Guidance
from tpgdiff_jax.inference.passes import Passes
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.reporting.errors import UserError

_CPU_THREADS = 8  # XLA takes one per device where there are more
_BATCH = PartitionSpec(("data", "fsdp"))


def fix_cpu_threads() -> None:
    """Give XLA's CPU backend the same number of threads on every machine; call before any use.

    Matrix products and convolutions divide their sums among the threads, so that a pixel in some
    thousands was rounded otherwise with another number of cores or devices.
    """
    os.environ["NPROC"] = str(_CPU_THREADS)


def check_mesh(mesh: Mesh) -> None:
    """Raise UserError for a mesh that splits single images."""
    if mesh.shape["tensor"] * mesh.shape["spatial"] != 1:
        raise UserError(
            f"config.mesh: tensor={mesh.shape['tensor']}, spatial={mesh.shape['spatial']}: a "
            "benchmark gives every device images of its own; set both to 1 (large images are seen "
            "in windows, config.benchmark.tile)."
        )


def own_devices(mesh: Mesh) -> Mesh:
    """Return the mesh of this process's devices: no image needs another process's."""
    devices = mesh.local_devices
    return make_mesh(dict.fromkeys(AXES, 1) | {"data": len(devices)}, devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Lay host arrays whole on every device."""
    return jax.tree.map(lambda leaf: place(np.asarray(leaf), replicated(mesh)), tree)


def to_devices(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Divide a batch [b, ...] over the mesh."""
    return place(array, NamedSharding(mesh, _BATCH))


def compiled(function: Callable, mesh: Mesh, fixed: int, *args: Any) -> Callable:
    """Compile a function so that each device works on its own part of the batch.

    Args:
      function: of `fixed` arguments that every device holds whole, then arrays with a batch axis;
        its results have a batch axis.
      mesh: the devices; the batch lies over its axes `data` and `fsdp`.
      fixed: number of leading arguments without a batch axis.
      *args: arguments of the shapes it will get.
    """
    specs = (PartitionSpec(),) * fixed + (_BATCH,) * (len(args) - fixed)
    local = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=_BATCH, check_vma=False)
    return jax.jit(local).lower(*args).compile()


def restorer(
    model: TPGDiff, config: ConfigDict, variant: Variant, seed: int, tile: int
) -> Callable[..., dict[str, jax.Array]]:
    """Return the function that restores.

    Args:
      model: the system.
      config: its configuration; reads `diffusion`, `model.prediction`, `eval.clamp`, and what names
        degradations.
      variant: sampler, steps, views, passes, and priors to leave out.
      seed: of the sampling noise.
      tile: side of the windows, pixels; 0 for the whole image.

    Returns:
      (variables, lq uint8 [B, H, W, 3], name hashes uint32 [B]) -> {"restored": float32
      [B, H, W, 3] in [0, 1], "finite": bool [B], "passes": int32 [B], "logits": [B, classes], where
      the system has a classifier}.
    """
    sde = IRSDE(**config.diffusion)

    def run(variables, lq, hashes):
        batch = run_batch(
            variables,
            lq.astype(jnp.float32) / 255,
            noise_keys(seed, hashes),
            model=model,
            sde=sde,
            sampler=variant.sampler,
            steps=variant.steps,
            prediction=config.model.prediction,
            clamp=config.eval.clamp,
            tile=tile,
            guidance=Guidance({}, variant.without),
            ensemble=variant.ensemble,
            passes=Passes.of(variant.passes, config),
        )
        answer = {"restored": batch.restored, "finite": batch.finite, "passes": batch.passes}
        return answer if batch.logits is None else answer | {"logits": batch.logits}

    return run


def scorer(protocol: Protocol, names: Sequence[str]) -> Callable[..., dict[str, jax.Array]]:
    """Return the function that scores.

    Args:
      protocol: how.
      names: which of `protocols.SCORES` and `perceptual.NAMES`.

    Returns:
      (networks of `load_networks`, restored float32 [B, H, W, 3], lq, gt uint8, sizes [B, 2]) ->
      {name: [B], "input_" + name: [B] of the degraded images, "image": uint8 [B, H, W, 3]}.
    """
    plain = [name for name in names if name in SCORES]
    deep = [name for name in names if name in perceptual.NAMES]

    def run(networks, restored, lq, gt, sizes):
        answer = {"image": jnp.round(jnp.clip(restored, 0, 1) * 255).astype(jnp.uint8)}
        for prefix, image in (("", restored), ("input_", lq.astype(jnp.float32) / 255)):
            image = as_scored(protocol, image)
            for name, value in scores(protocol, image, gt, sizes, plain).items():
                answer[prefix + name] = value
            for name in deep:
                pair = (image / 255, gt.astype(jnp.float32) / 255)
                answer[prefix + name] = perceptual.lpips(name, networks[name], *pair, sizes)
        return answer

    return run


def scores_of(size: tuple[int, int], names: Sequence[str]) -> list[str]:
    """Return which scores an image of (height, width) is large enough for.

    Args:
      size: of the image.
      names: out of `protocols.SCORES` and `perceptual.NAMES`.
    """
    return [name for name in names if name in SCORES or min(size) >= perceptual.smallest(name)]


def load_networks(names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the networks of perceptual scores.

    Args:
      names: out of `perceptual.NAMES`.

    Returns:
      score -> parameters, and score -> why it cannot be computed.
    """
    networks, missing = {}, {}
    for name in names:
        try:
            networks[name] = perceptual.load(name)
        except UserError as error:
            missing[name] = str(error)
    return networks, missing
