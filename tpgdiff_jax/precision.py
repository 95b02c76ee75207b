"""How exactly accelerators multiply float32 numbers.

GPUs and TPUs round the factors of float32 products by default, GPUs to 10 bits of mantissa
(TensorFloat-32), TPUs to 7 (bfloat16).  Networks bear that, and `model.matmul_precision` decides
it.  Maps, cues, resizing, the SDE and scores do not: they ask for `EXACT` whatever is set.  So do
vectors that change all of an image alike, in bfloat16 networks, too.  CPUs always multiply exactly.
"""

import contextlib

import jax

EXACT = jax.lax.Precision.HIGHEST
PRECISIONS = ("default", "high", "highest")


def use_precision(precision: str) -> None:
    """Set the precision of all products that ask for none, for the whole process.

    Call it where a program starts, before anything is compiled.

    Args:
      precision: one of `PRECISIONS`; `default` leaves what JAX was told, for instance by
        JAX_DEFAULT_MATMUL_PRECISION.

    Raises:
      ValueError: an unknown precision.
    """
    _check(precision)
    if precision != "default":
        jax.config.update("jax_default_matmul_precision", precision)


def at_precision(precision: str) -> contextlib.AbstractContextManager:
    """Return a context with that precision, for what is called in it; as `use_precision` else."""
    _check(precision)
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)


def _check(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(
            f"config.model.matmul_precision={precision!r} is unknown; expected one of "
            f"{', '.join(PRECISIONS)}."
        )
