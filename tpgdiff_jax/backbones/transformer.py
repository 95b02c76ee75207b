"""Transformer parts that the backbones and the structural prior share.

Projections of queries, keys and values are one matrix, as in PyTorch's multi-head attention, so
that one product computes all three and files convert one to one.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.attention import attend
from tpgdiff_jax.backbones.typed import TypedModule

ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "relu": nn.relu,
}


def geglu(x: jax.Array) -> jax.Array:
    """Gate one half of the channels by the other: [..., 2 C] -> [..., C] (arXiv 2002.05202)."""
    value, gate = jnp.split(x, 2, axis=-1)
    return value * nn.gelu(gate, approximate=False)


class JointProjection(TypedModule):
    """Project queries, keys and values by the three parts of one matrix."""

    @nn.compact
    def __call__(self, queries: jax.Array, keys: jax.Array | None) -> list[jax.Array]:
        features = queries.shape[-1]
        init = nn.initializers.lecun_normal()
        kernel = self.param("kernel", init, (features, 3 * features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * features,), self.param_dtype)
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        if keys is None:
            return jnp.split(queries.astype(self.dtype) @ kernel + bias, 3, axis=-1)
        q = queries.astype(self.dtype) @ kernel[:, :features] + bias[:features]
        kv = keys.astype(self.dtype) @ kernel[:, features:] + bias[features:]
        return [q, *jnp.split(kv, 2, axis=-1)]


class Attention(TypedModule):
    """Multi-head attention from queries [B, N, C] to keys [B, M, C], or among the queries.

    Attributes:
      heads: number of heads; divides C.
      whole: each device has images whole, see `attend`.
      dtype, param_dtype: of the computation and of the parameters; softmax is float32.
    """

    heads: int
    whole: bool = False

    @nn.compact
    def __call__(self, queries: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        features = queries.shape[-1]
        if features % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {features} channels.")
        q, k, v = (
            x.reshape(*x.shape[:2], self.heads, -1)
            for x in JointProjection(name="qkv", **self.dtypes)(queries, keys)
        )
        out = attend(q, k, v, whole=self.whole).reshape(queries.shape)
        return nn.Dense(features, name="out", **self.dtypes)(out)


class Mlp(TypedModule):
    """Dense, activation, Dense.

    Attributes:
      ratio: width of the hidden layer in units of the input's.
      activation: one of `ACTIVATIONS`.
    """

    ratio: int = 4
    activation: str = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        x = nn.Dense(self.ratio * features, name="dense_in", **self.dtypes)(x)
        return nn.Dense(features, name="dense_out", **self.dtypes)(ACTIVATIONS[self.activation](x))


class Block(TypedModule):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
      heads, mlp_ratio, activation: of its parts.
      epsilon: of the norms.
      layer_scale: multiply each branch by a learned gain per channel (arXiv 2103.17239).
      whole: as of `Attention`.
    """

    heads: int
    mlp_ratio: int = 4
    activation: str = "gelu"
    epsilon: float = 1e-5
    layer_scale: bool = False
    whole: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        attention = Attention(self.heads, self.whole, name="attention", **self.dtypes)
        mlp = Mlp(self.mlp_ratio, self.activation, name="mlp", **self.dtypes)
        x = x + self._scaled("scale_attention", attention(self._norm("norm_attention", x)))
        return x + self._scaled("scale_mlp", mlp(self._norm("norm_mlp", x)))

    def _norm(self, name, x):
        return layer_norm(name, self.epsilon, **self.dtypes)(x)

    def _scaled(self, name, x):
        if not self.layer_scale:
            return x
        gain = self.param(name, nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        return x * gain.astype(self.dtype)


def layer_norm(name: str, epsilon: float, dtype: jnp.dtype, param_dtype: jnp.dtype) -> nn.LayerNorm:
    """Return a LayerNorm that computes the variance in two passes, as PyTorch does."""
    return nn.LayerNorm(
        epsilon=epsilon, use_fast_variance=False, dtype=dtype, param_dtype=param_dtype, name=name
    )
