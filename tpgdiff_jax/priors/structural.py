"""The structural prior: maps of where things are, encoded into a few tokens.

Maps (depth, segmentation, difference of Gaussians) pass through one shared convolutional encoder;
a latent connector gathers them into a fixed number of tokens.  TPGDiff (arXiv 2601.20306); the
connector follows Perceiver (Jaegle et al., arXiv 2103.03206).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

# The order is that of the learned modality embedding's rows.
CUES = ("depth", "segmentation", "dog")

_LUMA = (0.299, 0.587, 0.114)


def difference_of_gaussians(image: jax.Array) -> jax.Array:
    """Return edges and blobs: a 3x3 mean minus a 9x9 mean of the luma, scaled to [-1, 1].

    Args:
      image: float [B, H, W, 3] in [0, 1].

    Returns:
      float32 [B, H, W, 1]; borders count zeros as pixels (the divisor is fixed).
    """
    luma = jnp.einsum("bhwc,c->bhw", image.astype(jnp.float32), jnp.array(_LUMA))
    difference = _box_mean(luma, 3) - _box_mean(luma, 9)
    peak = jnp.abs(difference).max(axis=(1, 2), keepdims=True)
    return (difference / (peak + 1e-6))[..., None]


def _box_mean(image: jax.Array, size: int) -> jax.Array:
    sums = image
    for axis in (1, 2):
        window = [1, 1, 1]
        window[axis] = size
        sums = jax.lax.reduce_window(sums, 0.0, jax.lax.add, tuple(window), (1, 1, 1), "SAME")
    return sums / size**2


def sincos_positions(height: int, width: int, features: int) -> jax.Array:
    """Return 2-D positions [height * width, features]: [sin x, cos x, sin y, cos y]."""
    quarter = features // 4
    frequencies = 1 / 10000 ** (jnp.arange(quarter) / quarter)
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    x = columns.reshape(-1, 1) * frequencies
    y = rows.reshape(-1, 1) * frequencies
    return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=-1)


class MapEncoder(nn.Module):
    """Encode one-channel maps into features, shared by all cues.

    Eight 3x3 convolutions with ReLU, a stride-2 one after every second; then a projection.

    Attributes:
      width: channels of the first convolution; they double up to `max_width`.
      max_width: widest convolution.
      features: channels of the result.
    """

    width: int = 32
    max_width: int = 256
    features: int = 256
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # Widths 1x 2x | 4x 4x | ... : the stride-2 convolution widens, too.
        widths = [min(self.width * m, self.max_width) for m in (1, 2, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8)]
        x = maps.astype(self.dtype)
        for index, width in enumerate(widths):
            stride = 2 if index % 3 == 2 else 1
            conv = nn.Conv(width, (3, 3), stride, ((1, 1), (1, 1)), name=f"conv_{index}", **kinds)
            x = nn.relu(conv(x))
        return nn.Dense(self.features, name="proj", **kinds)(x)


class TokenMlp(nn.Module):
    """LayerNorm, Dense x4, GELU, Dense."""

    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features = x.shape[-1]
        x = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm", **kinds)(x)
        x = nn.gelu(nn.Dense(4 * features, name="dense_in", **kinds)(x), approximate=False)
        return nn.Dense(features, name="dense_out", **kinds)(x)


class TokenAttention(nn.Module):
    """Multi-head attention with biased projections, from queries [B, N, C] to keys [B, M, C]."""

    heads: int = 8
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, queries: jax.Array, keys: jax.Array) -> jax.Array:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        features = queries.shape[-1]

        def project(name, x):
            x = nn.Dense(features, name=name, **kinds)(x)
            return x.reshape(*x.shape[:2], self.heads, -1)

        q, k, v = project("q", queries), project("k", keys), project("v", keys)
        out = jax.nn.dot_product_attention(q, k, v).reshape(queries.shape)
        return nn.Dense(features, name="out", **kinds)(out)


class LatentConnector(nn.Module):
    """Gather any number of tokens [B, M, C] into `num_latents` tokens [B, num_latents, C].

    Cross-attention and an MLP, then `depth` rounds of self-attention and an MLP, all residual.
    """

    num_latents: int = 64
    depth: int = 2
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}

        def norm(name):
            return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name, **kinds)

        shape = (1, self.num_latents, tokens.shape[-1])
        init = nn.initializers.normal(0.02)
        x = self.param("latents", init, shape, self.param_dtype).astype(self.dtype)
        x = jnp.broadcast_to(x, (tokens.shape[0], *shape[1:]))
        cross = TokenAttention(name="cross_attention", **kinds)
        x = x + cross(norm("norm_queries")(x), norm("norm_keys")(tokens))
        x = x + TokenMlp(name="mlp_0", **kinds)(x)
        for index in range(1, self.depth + 1):
            attention = TokenAttention(name=f"self_attention_{index}", **kinds)
            h = norm(f"norm_self_{index}")(x)
            x = x + attention(h, h)
            x = x + TokenMlp(name=f"mlp_{index}", **kinds)(x)
        return x


class StructuralPrior(nn.Module):
    """Turn a degraded image and maps of it into structural tokens.

    Attributes:
      cues: which maps are used, a subset of `CUES`; `dog` is computed here from the image, the
        others are given by the caller.
      image_size: maps are resized to this many pixels squared before they are encoded.
      encoder_width, encoder_max_width: of the shared map encoder.
      features, num_latents, connector_depth: tokens' width and number, rounds of self-attention.
    """

    cues: tuple[str, ...] = CUES
    image_size: int = 256
    encoder_width: int = 32
    encoder_max_width: int = 256
    features: int = 256
    num_latents: int = 64
    connector_depth: int = 2
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        lq: jax.Array,
        depth: jax.Array | None = None,
        segmentation: jax.Array | None = None,
    ) -> jax.Array:
        """Encode structure.

        Args:
          lq: degraded images, float [B, H, W, 3] in [0, 1].
          depth: relative depth in [0, 1], [B, h, w, 1]; needed when `cues` has it.
          segmentation: class index / 149, [B, h, w, 1]; needed when `cues` has it.

        Returns:
          tokens, [B, num_latents, features].

        Raises:
          ValueError: an unknown cue, or a cue whose map is not given.
        """
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        maps = self._maps({"depth": depth, "segmentation": segmentation}, lq)
        encode = MapEncoder(
            self.encoder_width, self.encoder_max_width, self.features, name="encoder", **kinds
        )
        embed = self.param(
            "modality", nn.initializers.normal(0.02), (len(CUES), self.features), self.param_dtype
        )
        # All cues in one batch: one pass of the shared encoder.
        encoded = encode(jnp.concatenate(list(maps.values())))
        height, width = encoded.shape[1:3]
        positions = sincos_positions(height, width, self.features).astype(self.dtype)
        encoded = encoded.reshape(len(maps), lq.shape[0], height * width, self.features)
        rows = embed[jnp.array([CUES.index(cue) for cue in maps])].astype(self.dtype)
        tokens = encoded + positions + rows[:, None, None, :]
        tokens = tokens.transpose(1, 0, 2, 3).reshape(lq.shape[0], -1, self.features)
        connector = LatentConnector(
            self.num_latents, self.connector_depth, name="connector", **kinds
        )
        return connector(tokens)

    def _maps(self, given, lq):
        """Return the cues' maps, each [B, image_size, image_size, 1], in the order of `CUES`."""
        unknown = [cue for cue in self.cues if cue not in CUES]
        if unknown or not self.cues:
            raise ValueError(f"priors.cues={tuple(self.cues)} must be some of {', '.join(CUES)}.")
        maps = {}
        for cue in CUES:
            if cue not in self.cues:
                continue
            value = difference_of_gaussians(lq) if cue == "dog" else given[cue]
            if value is None:
                raise ValueError(
                    f"priors.cues has {cue!r}, but no {cue} map was given; "
                    "give one or take it out of the cues."
                )
            method = "nearest" if cue == "segmentation" else "linear"
            maps[cue] = resize_maps(value.astype(jnp.float32), self.image_size, method)
        return maps


def resize_maps(maps: jax.Array, size: int, method: str) -> jax.Array:
    """Resize [B, h, w, 1] to [B, size, size, 1] as PyTorch's `interpolate` does.

    Args:
      maps: float [B, h, w, 1].
      size: side of the result in pixels.
      method: `linear` (half-pixel centres, no antialiasing) or `nearest` (floor(i h / size)).
    """
    if method == "linear":
        shape = (maps.shape[0], size, size, maps.shape[3])
        return jax.image.resize(maps, shape, "linear", antialias=False)
    rows = jnp.arange(size) * maps.shape[1] // size
    columns = jnp.arange(size) * maps.shape[2] // size
    return maps[:, rows][:, :, columns]
