"""What every network of this project has in common: the types it computes in and is stored in."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class TypedModule(nn.Module, kw_only=True):
    """A module with a type of its computation and a type of its parameters.

    Attributes:
      dtype: of the computation.
      param_dtype: of the parameters.
    """

    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @property
    def dtypes(self) -> dict[str, Any]:
        """Both types, as the arguments that an inner module takes."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}
