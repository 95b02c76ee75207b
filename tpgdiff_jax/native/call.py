"""A JAX primitive that oneDNN computes on one CPU device, and XLA everywhere else.

Which of the two is known only when a program is compiled: then its platform and devices are.  So
one traced program runs anywhere, and machines with a GPU or TPU never touch the library.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from tpgdiff_jax.native import choice
from tpgdiff_jax.native.library import Library
from tpgdiff_jax.native.problems import Convolution, Product, UnsupportedError

Problem = Convolution | Product

_call = Primitive("tpgdiff_native")
_call.multiple_results = True


def call(
    problem: Problem, fallback: Callable[..., Sequence[jax.Array]], *operands: jax.Array
) -> list[jax.Array]:
    """Compute a problem with oneDNN, where a program runs on one CPU device and oneDNN can.

    Args:
      problem: what to compute.
      fallback: computes the same with XLA; hashable, best a function of a module.
      operands: arrays, as the problem orders them.

    Returns:
      the results.
    """
    return _call.bind(*operands, problem=problem, fallback=fallback)


@_call.def_abstract_eval
def _abstract_eval(*operands, problem, fallback):
    del fallback
    return [jax.core.ShapedArray(r.shape, r.dtype) for r in problem.results(*operands)]


@_call.def_impl
@functools.partial(jax.jit, static_argnames=("problem", "fallback"))
def _impl(*operands, problem, fallback):
    return _call.bind(*operands, problem=problem, fallback=fallback)


def _lower_anywhere(ctx, *operands, problem, fallback):
    del problem
    return mlir.lower_fun(fallback, multiple_results=True)(ctx, *operands)


def _lower_on_cpu(ctx, *operands, problem, fallback):
    library = choice.library_in_use()
    if library is None:
        return _lower_anywhere(ctx, *operands, problem=problem, fallback=fallback)
    devices = _devices(ctx.module_context.axis_context)
    why = _refusal(library, problem, ctx.avals_in, ctx.avals_out, devices)
    if why is not None:
        _say(why)
        return _lower_anywhere(ctx, *operands, problem=problem, fallback=fallback)
    function = functools.partial(_foreign_call, problem)
    return mlir.lower_fun(function, multiple_results=True)(ctx, *operands)


mlir.register_lowering(_call, _lower_anywhere)
mlir.register_lowering(_call, _lower_on_cpu, platform="cpu")


def _foreign_call(problem: Problem, *operands: jax.Array) -> list[jax.Array]:
    function = jax.ffi.ffi_call(problem.target, problem.results(*operands))
    return list(function(*operands, **problem.attributes(operands)))


def _devices(context: Any) -> int:
    """Return over how many devices XLA splits the arrays of a program.

    One within `jax.shard_map`, which hands each device its own part.
    """
    if isinstance(context, mlir.SPMDAxisContext):
        split = set(context.mesh.axis_names) - set(context.manual_axes)
        return max([context.mesh.shape[name] for name in split], default=1)
    return getattr(context, "num_devices", 1)


def _refusal(
    library: Library, problem: Problem, operands: Sequence, results: Sequence, devices: int
) -> str | None:
    """Return why XLA computes a problem, or None: oneDNN does."""
    if devices > 1:
        # XLA cannot look into a foreign call, so would gather all parts on every device.
        return f"programs that span {devices} CPU devices run their convolutions through XLA"
    arrays = (*operands, *results)
    if any(0 in array.shape for array in arrays):
        return "empty arrays are left to XLA"
    try:
        numbers = problem.numbers(operands, results)
    except UnsupportedError as error:
        return f"some convolutions run through XLA: {error}"
    if any(a.dtype == jnp.bfloat16 for a in arrays) and not library.has_bfloat16:
        return "bfloat16 convolutions run through XLA: the processor has no bfloat16 units"
    found, text = library.describe(problem.question, numbers)
    if not found or text.startswith("ref"):
        shapes = ", ".join(f"{a.dtype.name}{list(a.shape)}" for a in operands)
        return f"{problem} of {shapes} runs through XLA: {text}"
    return None


@functools.cache
def _say(why: str) -> None:
    logging.info("oneDNN: %s.", why)


def _batch(operands, axes, *, problem, fallback):
    """Merge the axis of `jax.vmap` into the batch; let XLA do what has no such form."""
    is_plain = isinstance(problem, Product) and not problem.many and len(operands) == 2
    if is_plain and None not in axes:
        fronted = [jnp.moveaxis(array, axis, 0) for array, axis in zip(operands, axes, strict=True)]
        many = dataclasses.replace(problem, many=True)
        return call(many, _for_each(fallback), *fronted), [0]
    flags = problem.batched(operands)
    if flags is None or any(
        axis is not None and not flag for axis, flag in zip(axes, flags, strict=True)
    ):
        results = jax.vmap(fallback, in_axes=tuple(axes))(*operands)
        return results, [0] * len(results)
    size = next(a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None)
    fronted = [
        _to_front(array, axis, size) if flag else array
        for array, axis, flag in zip(operands, axes, flags, strict=True)
    ]
    if isinstance(problem, Product):  # it takes any leading axes
        return call(problem, fallback, *fronted), [0]
    merged = [
        array.reshape(-1, *array.shape[2:]) if flag else array
        for array, flag in zip(fronted, flags, strict=True)
    ]
    (result,) = call(problem, fallback, *merged)
    return [result.reshape(size, -1, *result.shape[1:])], [0]


@functools.cache
def _for_each(fallback):
    return jax.vmap(fallback)


def _to_front(array, axis, size):
    if axis is None:
        return jnp.broadcast_to(array, (size, *array.shape))
    return jnp.moveaxis(array, axis, 0)


batching.primitive_batchers[_call] = _batch
