"""Convolutions and matrix products of CPUs through oneDNN, called from inside XLA's programs.

XLA's CPU backend reaches a fraction of what the cores can do in convolutions, and never uses their
matrix units (AMX).  oneDNN, the library that PyTorch computes with, does.  `source/` holds the C++
that joins the two; `build` compiles it once into the user's cache, `library` loads it, `choice`
decides whether it is used and says so, `problems` describes what it can compute and `call` puts
that into JAX programs.  Nothing here is needed: whatever is missing, XLA computes as before.
"""

from tpgdiff_jax.native.call import call
from tpgdiff_jax.native.choice import (
    ENVIRONMENT,
    WAYS,
    ChoiceError,
    choose,
    chosen,
    has_fast_bfloat16,
)
from tpgdiff_jax.native.problems import Convolution, Product

__all__ = [
    "ENVIRONMENT",
    "WAYS",
    "ChoiceError",
    "Convolution",
    "Product",
    "call",
    "choose",
    "chosen",
    "has_fast_bfloat16",
]
