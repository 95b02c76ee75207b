"""The structural prior: maps of where things are, encoded into a few tokens.

Maps (depth, segmentation, difference of Gaussians, gradient) pass through one shared convolutional
encoder; a latent connector gathers them into a fixed number of tokens.  TPGDiff (arXiv 2601.20306);
the connector follows Perceiver (Jaegle et al., arXiv 2103.03206).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tpgdiff_jax.backbones.convolution import SAME_3X3, Conv
from tpgdiff_jax.backbones.depth_anything import DepthAnything, depth_input, normalised_depth
from tpgdiff_jax.backbones.frozen import apply_frozen
from tpgdiff_jax.backbones.segformer import SegFormer, segmentation_input, segmentation_map
from tpgdiff_jax.backbones.transformer import Attention, Mlp, layer_norm
from tpgdiff_jax.backbones.typed import TypedModule
from tpgdiff_jax.priors.cues import (
    CUES,
    RELEASED_CUES,
    difference_of_gaussians,
    gradient_magnitude,
    resize_maps,
)
from tpgdiff_jax.reporting.errors import UserError

# The map encoder's four convolutions of stride 2.
MAP_DOWNSAMPLING = 16


def sincos_positions(height: int, width: int, features: int) -> jax.Array:
    """Return 2-D positions [height * width, features]: [sin x, cos x, sin y, cos y]."""
    quarter = features // 4
    frequencies = 1 / 10000 ** (jnp.arange(quarter) / quarter)
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    x = columns.reshape(-1, 1) * frequencies
    y = rows.reshape(-1, 1) * frequencies
    return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=-1)


class MapEncoder(TypedModule):
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

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        # Widths 1x 2x | 4x 4x | ... : the stride-2 convolution widens, too.
        widths = [min(self.width * m, self.max_width) for m in (1, 2, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8)]
        x = maps.astype(self.dtype)
        # Each ReLU takes half of the power.  Without the gain (He et al., arXiv 1502.01852) a
        # sixtieth of the scale would be left, and biases could end all activity early in training.
        conv = {"use_bias": True, "init_gain": 2**0.5, "padding": SAME_3X3, **self.dtypes}

        def convolved(x, index):
            stride = 2 if index % 3 == 2 else 1
            return Conv(widths[index], stride=stride, name=f"conv_{index}", **conv)(x)

        def first_two(_, maps):
            return convolved(nn.relu(convolved(maps, 0)), 1)

        # The first features are cheap, of one channel each, and the largest of all: the gradient
        # computes them again.
        x = nn.relu(nn.remat(first_two)(self, x))
        for index in range(2, len(widths)):
            x = nn.relu(convolved(x, index))
        return nn.Dense(self.features, name="proj", **self.dtypes)(x)


class LatentConnector(TypedModule):
    """Gather any number of tokens [B, M, C] into `num_latents` tokens [B, num_latents, C].

    Cross-attention and an MLP, then `depth` rounds of self-attention and an MLP, all residual.
    """

    num_latents: int = 64
    depth: int = 2
    heads: int = 8

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:

        def norm(name):
            return layer_norm(name, 1e-5, **self.dtypes)

        def mlp(index, x):
            return Mlp(name=f"mlp_{index}", **self.dtypes)(norm(f"norm_mlp_{index}")(x))

        shape = (1, self.num_latents, tokens.shape[-1])
        init = nn.initializers.normal(0.02)
        x = self.param("latents", init, shape, self.param_dtype).astype(self.dtype)
        x = jnp.broadcast_to(x, (tokens.shape[0], *shape[1:]))
        cross = Attention(self.heads, name="cross_attention", **self.dtypes)
        x = x + cross(norm("norm_queries")(x), norm("norm_keys")(tokens))
        x = x + mlp(0, x)
        for index in range(1, self.depth + 1):
            attention = Attention(self.heads, name=f"self_attention_{index}", **self.dtypes)
            x = x + attention(norm(f"norm_self_{index}")(x))
            x = x + mlp(index, x)
        return x


class StructuralPrior(TypedModule):
    """Turn a degraded image and maps of it into structural tokens.

    Attributes:
      cues: which maps are used, a subset of `CUES`.  `dog` and `gradient` are computed from the
        image; `depth` and `segmentation` are given by the caller, or come from the networks.
      depth_net, segmentation_net: frozen networks that make those maps, with weights in the
        collection `frozen`; None where the caller always gives the map.
      depth_size, segmentation_size: input resolution of the networks, pixels.
      image_size: maps are resized to this many pixels squared before they are encoded.
      encoder_width, encoder_max_width: of the shared map encoder.
      features, num_latents, connector_depth: tokens' width and number, rounds of self-attention.
    """

    cues: tuple[str, ...] = RELEASED_CUES
    depth_net: DepthAnything | None = None
    segmentation_net: SegFormer | None = None
    depth_size: int = 518
    segmentation_size: int = 512
    image_size: int = 256
    encoder_width: int = 32
    encoder_max_width: int = 256
    features: int = 256
    num_latents: int = 64
    connector_depth: int = 2

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
          depth: relative depth in [0, 1], [B, h, w, 1]; takes the network's place.
          segmentation: class index / 149, [B, h, w, 1]; takes the network's place.

        Returns:
          tokens, [B, num_latents, features].

        Raises:
          UserError: an unknown cue, or a cue with neither map nor network.
        """
        maps = self._maps(lq, {"depth": depth, "segmentation": segmentation})
        encode = MapEncoder(
            self.encoder_width, self.encoder_max_width, self.features, name="encoder", **self.dtypes
        )
        # All cues in one batch: one pass of the shared encoder.  An image's stand side by side, so
        # that each device keeps those of its own images.
        stacked = jnp.stack(list(maps.values()), axis=1)
        encoded = encode(stacked.reshape(-1, *stacked.shape[2:]))
        height, width = encoded.shape[1:3]
        positions = sincos_positions(height, width, self.features).astype(self.dtype)
        encoded = encoded.reshape(lq.shape[0], len(maps), height * width, self.features)
        rows = jnp.stack(self._embeddings(maps)).astype(self.dtype)
        tokens = encoded + positions + rows[:, None, :]
        tokens = tokens.reshape(lq.shape[0], -1, self.features)
        connector = LatentConnector(
            self.num_latents, self.connector_depth, name="connector", **self.dtypes
        )
        return connector(tokens)

    def _embeddings(self, maps):
        """Return each cue's learned vector; the released cues' stand in one table, as in files."""
        init = nn.initializers.normal(0.02)
        shape = (len(RELEASED_CUES), self.features)
        table = self.param("modality", init, shape, self.param_dtype)
        return [
            table[RELEASED_CUES.index(cue)]
            if cue in RELEASED_CUES
            else self.param(f"modality_{cue}", init, shape[1:], self.param_dtype)
            for cue in maps
        ]

    def _maps(self, lq, given):
        """Return the cues' maps, each [B, image_size, image_size, 1], in the order of `CUES`."""
        unknown = [cue for cue in self.cues if cue not in CUES]
        if unknown or not self.cues:
            raise UserError(f"priors.cues={tuple(self.cues)} must be some of {', '.join(CUES)}.")
        maps = {}
        for cue in CUES:
            if cue not in self.cues:
                continue
            value = self._map(cue, lq) if given.get(cue) is None else given[cue]
            method = "nearest" if cue == "segmentation" else "linear"
            maps[cue] = resize_maps(value.astype(jnp.float32), self.image_size, method)
        return maps

    def _map(self, cue, lq):
        if cue == "dog":
            return difference_of_gaussians(lq)
        if cue == "gradient":
            return gradient_magnitude(lq)
        network = {"depth": self.depth_net, "segmentation": self.segmentation_net}[cue]
        if network is None:
            raise UserError(
                f"priors.cues has {cue!r}, but there is neither a {cue} map nor a network that "
                "makes one; give one of them or take it out of the cues."
            )
        if cue == "depth":
            pixels = depth_input(lq, self.depth_size)
            return normalised_depth(apply_frozen(self, cue, network, pixels))
        pixels = segmentation_input(lq, self.segmentation_size)
        return segmentation_map(apply_frozen(self, cue, network, pixels))
