"""Muon with the matrices of one shape orthogonalised together.

Jordan et al., 2024, "Muon: an optimizer for hidden layers".  Each update of a matrix or convolution
is momentum whose singular values are brought near 1 by five Newton-Schulz steps, 15 products.  For
each matrix by itself an accelerator starts thousands of products, most of them tiny; matrices of
one shape share theirs here.
"""

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

# Of x -> a x + b (x x^T) x + c (x x^T)^2 x: the steepest at 0 (Jordan et al.).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_EPSILON = 1e-8


def muon(
    learning_rate: optax.Schedule,
    adam_learning_rate: optax.Schedule,
    *,
    b1: float,
    b2: float,
    weight_decay: float,
    mask: Any,
) -> optax.GradientTransformation:
    """Return Muon for kernels and AdamW with Nesterov momentum for all else.

    The same updates as those of `optax.contrib.muon`, but for rounding, and the same state.

    Args:
      learning_rate: of kernels.
      adam_learning_rate: of all else.
      b1, b2: AdamW's moments.
      weight_decay: of what `mask` names; see `optax.add_decayed_weights`.
      mask: parameters -> which of them decay.
    """
    # Without Newton-Schulz steps this is the momentum alone, as it is.
    momentum = optax.contrib.scale_by_muon(
        ns_coeffs=_COEFFICIENTS,
        ns_steps=0,
        preconditioning="aol",
        weight_dimension_numbers=_matrix_axes,
    )
    of_kernels = optax.chain(
        momentum,
        optax.stateless(lambda updates, _: orthogonalised(updates)),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    of_others = optax.adamw(adam_learning_rate, b1=b1, b2=b2, weight_decay=0.0, nesterov=True)
    return optax.partition({"muon": of_kernels, "adam": of_others}, _labels)


def _labels(params: Any) -> Any:
    def label(path, leaf):
        del leaf
        return "muon" if getattr(path[-1], "key", None) == "kernel" else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _matrix_axes(kernels: Any) -> Any:
    """Tell which axes of a kernel are a matrix's rows and columns: all but the last, the last."""
    return jax.tree.map(
        lambda leaf: optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1),
        kernels,
    )


def orthogonalised(kernels: Any) -> Any:
    """Bring the singular values of each kernel near 1, times sqrt(max(1, outputs / inputs)).

    Args:
      kernels: tree of [..., inputs, outputs]; all axes but the last are a matrix's rows.
    """
    leaves, structure = jax.tree.flatten(kernels)
    # XLA's CPU backend is slow at products with a batch axis.
    found = jax.lax.platform_dependent(leaves, cpu=_one_by_one, default=_by_shape)
    return jax.tree.unflatten(structure, found)


def _one_by_one(leaves: list[jax.Array]) -> list[jax.Array]:
    return [_restored(_newton_schulz(_wide(leaf)), leaf) for leaf in leaves]


def _by_shape(leaves: list[jax.Array]) -> list[jax.Array]:
    groups = collections.defaultdict(list)
    for index, leaf in enumerate(leaves):
        groups[jax.eval_shape(_wide, leaf)].append(index)
    found = {}
    for members in groups.values():
        stacked = jnp.stack([_wide(leaves[index]) for index in members])
        answers = _newton_schulz(stacked)
        found |= {
            index: _restored(answer, leaves[index])
            for index, answer in zip(members, answers, strict=True)
        }
    return [found[index] for index in range(len(leaves))]


def _wide(kernel: jax.Array) -> jax.Array:
    """Return a kernel as a matrix that is at least as wide as high; its products are small then."""
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


def _restored(matrix: jax.Array, kernel: jax.Array) -> jax.Array:
    """Give `_wide`'s matrix its kernel's shape again, and its size by inputs and outputs."""
    rows, columns = math.prod(kernel.shape[:-1]), kernel.shape[-1]
    matrix = matrix.T if rows > columns else matrix
    return matrix.reshape(kernel.shape) * max(1.0, columns / rows) ** 0.5


def _newton_schulz(x: jax.Array) -> jax.Array:
    """Bring the singular values of matrices [..., M, N], M <= N, near 1."""
    a, b, c = _COEFFICIENTS
    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + _EPSILON)
    for _ in range(_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x
