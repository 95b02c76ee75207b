"""Every branch of the priors, at several input sizes, against one call of the UNet."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from launch.bench.measure import Program
from launch.bench.weights import random_system
from tpgdiff_jax.backbones.depth_anything import depth_input
from tpgdiff_jax.backbones.segformer import segmentation_input
from tpgdiff_jax.backbones.vit import clip_view
from tpgdiff_jax.models.tpgdiff import TPGDiff

DEPTH_SIZES, SEGMENTATION_SIZES = (518, 392, 252, 126), (512, 256, 128)
Work = Callable[[Any, jax.Array], Any]


def bench_priors(config: ConfigDict, repeats: int) -> list[dict[str, Any]]:
    """Measure each branch that the configuration has, at its batch and crop size.

    Args:
      config: reads `model`, `priors` and `data`.
      repeats: counted runs of each.
    """
    model, variables = random_system(config)
    variables = jax.tree.map(jnp.asarray, variables)
    batch, size = config.data.batch_size, config.data.crop_size
    lq = jnp.asarray(np.random.default_rng(0).random((batch, size, size, 3), np.float32))
    rows, unit = [], None
    for name, function in _works(model, variables, lq):
        program = Program(function, (variables, lq))
        timing, _ = program.time((variables, lq), repeats)
        unit = unit or timing.median
        row = {"what": name, "dtype": config.model.dtype, "batch": batch, "size": f"{size}x{size}"}
        row |= {"UNet calls": round(timing.median / unit, 3), **timing.row()}
        rows.append(row | program.memory_row() | {"flop_counted": program.flop})
    return rows


def _works(model: TPGDiff, variables: Any, lq: jax.Array) -> Iterator[tuple[str, Work]]:
    """Yield (name, `f(variables, lq)`) of what is measured; the first is one UNet call."""

    def whole(v, lq):
        return model.apply(v, lq, method="extract_priors")

    priors = jax.jit(whole)(variables, lq)
    t = jnp.full(lq.shape[:1], 50, jnp.int32)
    yield "one UNet call", lambda v, lq: model.apply(v, lq, lq, t, priors, method="denoise")
    if model.encoder is not None:
        yield "compact encoder", _plain(model.encoder, "encoder")
    if model.semantic is not None:
        yield "semantic vector", _vector(model.semantic, "semantic", model.semantic.student)
    if model.degradation is not None:
        tower = model.degradation.backbone
        yield "degradation vector", _vector(model.degradation, "degradation", tower)
    structure = model.structure
    if structure is not None:
        depth, segmentation = structure.depth_net, structure.segmentation_net
        for side in DEPTH_SIZES if depth is not None else ():
            yield f"depth, {side} px", _map(depth, "depth", depth_input, side)
        for side in SEGMENTATION_SIZES if segmentation is not None else ():
            inputs = (segmentation, "segmentation", segmentation_input, side)
            yield f"segmentation, {side} px", _map(*inputs)
        yield "map encoder and connector", _map_encoder(structure)
    yield "extract_priors, all of it", whole


def _plain(network: Any, name: str) -> Work:
    return lambda v, lq: network.apply({"params": v["params"][name]}, lq)


def _vector(network: Any, name: str, tower: Any) -> Work:
    def run(v, lq):
        return network.apply({"params": v["frozen"][name]}, clip_view(lq, tower.image_size))

    return run


def _map(network: Any, name: str, prepare: Callable, side: int) -> Work:
    def run(v, lq):
        return network.apply({"params": v["frozen"]["structure"][name]}, prepare(lq, side))

    return run


def _map_encoder(structure: Any) -> Work:
    def run(v, lq):
        maps = jnp.zeros((*lq.shape[:3], 1))
        return structure.apply({"params": v["params"]["structure"]}, lq, maps, maps)

    return run
