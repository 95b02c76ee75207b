"""What a gradient keeps of the forward pass."""

from typing import TypeVar

import jax

Arrays = TypeVar("Arrays")


def kept_alone(arrays: Arrays) -> Arrays:
    """Return what was kept for a gradient, which computes from it what else it needs.

    Otherwise XLA's CPU backend sees that the forward pass has computed the rest before,
    and keeps that as well: float32 arrays beside the bfloat16 one that was to be kept.  Other
    backends decide well by themselves; on a TPU a barrier would cost copies in another layout.
    """
    barrier = jax.lax.optimization_barrier
    return jax.lax.platform_dependent(arrays, cpu=barrier, default=lambda same: same)
