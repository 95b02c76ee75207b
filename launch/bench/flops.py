"""Count floating-point operations, in closed form and of a traced function.

Only matrix products and convolutions are counted, each multiply-add as two.  What XLA counts in a
compiled program is `training.speed.step_flops`.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
from jax.extend import core

# Multiply-adds of one call of the released UNet (nf 64), per 256x256 pixels and their square.
_LINEAR_GMAC, _SQUARE_GMAC = 130.4, 2.675


def closed_form(pixels: int) -> float:
    """Return the operations of one call of the full-width UNet on one image.

    It leaves the products inside linear attention out (3 %), which `counted` counts.

    Args:
      pixels: of the image.
    """
    n = pixels / 65536
    return 2e9 * (_LINEAR_GMAC * n + _SQUARE_GMAC * n**2)


def counted(jaxpr: core.ClosedJaxpr) -> float:
    """Return the operations of a traced function, loops counted as often as they turn.

    Args:
      jaxpr: of `jax.make_jaxpr(f)(...)` or `jax.jit(f).trace(...)`.
    """
    return _count(_opened(jaxpr))


def _count(jaxpr: core.Jaxpr) -> float:
    return sum(_count_equation(equation) for equation in _used(jaxpr))


def _used(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """Return the equations that results depend on; compilers drop the others."""
    needed, used = set(_variables(jaxpr.outvars)), []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed.update(_variables(equation.invars))
            used.append(equation)
    return used


def _variables(atoms: Iterable[Any]) -> list[core.Var]:
    return [atom for atom in atoms if not hasattr(atom, "val")]  # literals have values


def _count_equation(equation: core.JaxprEqn) -> float:
    match equation.primitive.name:
        case "dot_general":
            return _product(equation)
        case "conv_general_dilated":
            return _convolution(equation)
        case "cond":  # also what a platform decides; its branches do the same work
            return max(_count(_opened(branch)) for branch in equation.params["branches"])
        case "scan":
            return equation.params["length"] * _count(_opened(equation.params["jaxpr"]))
    return sum(_count(inner) for inner in inner_jaxprs(equation))


def inner_jaxprs(equation: core.JaxprEqn) -> list[core.Jaxpr]:
    """Return the programs that an equation calls.

    A call of oneDNN is opaque; what XLA would compute instead stands for it.
    """
    if "fallback" in equation.params:
        operands = [
            jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in equation.invars
        ]
        return [jax.make_jaxpr(equation.params["fallback"])(*operands).jaxpr]
    found = []
    for value in equation.params.values():
        for item in value if isinstance(value, list | tuple) else (value,):
            if hasattr(_opened(item), "eqns"):
                found.append(_opened(item))
    return found


def _opened(item: Any) -> Any:
    """Return a program without its constants, in whichever of JAX's forms it comes."""
    return getattr(item, "jaxpr", item)


def _product(equation: core.JaxprEqn) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth


def _convolution(equation: core.JaxprEqn) -> float:
    """Count taps at borders, too, but not the zeros between the inputs of a transposed one."""
    numbers = equation.params["dimension_numbers"]
    kernel = equation.invars[1].aval.shape
    taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])  # channels and window
    zeros = math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * taps / zeros
