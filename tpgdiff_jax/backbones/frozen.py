"""Networks inside a module whose weights are given, never trained.

Their weights live in the variable collection `frozen`, beside `params`: neither optimiser nor
running average nor checkpoint ever sees them.
"""

from typing import Any

import flax.linen as nn
import jax

COLLECTION = "frozen"


def apply_frozen(owner: nn.Module, name: str, network: nn.Module, *inputs: Any) -> Any:
    """Run a network with the weights `frozen/<path of owner>/<name>`; no gradient enters it.

    Args:
      owner: the module that is being applied.
      name: of the weights within the owner.
      network: what to run.
      inputs: its arguments.

    Returns:
      what `network` returns.  While the owner is being initialised its answer is not needed and
      its weights need not be there: zeros of the right shape.

    Raises:
      ValueError: the weights are missing.
    """
    network = network.clone(parent=None)
    if not owner.has_variable(COLLECTION, name):
        if owner.is_initializing():
            return _zeros_like_answer(network, inputs)
        path = "/".join((COLLECTION, *owner.path, name))
        raise ValueError(
            f"The frozen weights {path} ({type(network).__name__}) are missing; "
            "load them (config.priors.weights) or build the system without them."
        )
    params = owner.get_variable(COLLECTION, name)
    return jax.lax.stop_gradient(network.apply({"params": params}, *inputs))


def _zeros_like_answer(network, inputs):
    def answer(*inputs):
        return network.init_with_output(jax.random.key(0), *inputs)[0]

    shapes = jax.eval_shape(answer, *inputs)
    return jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), shapes)
