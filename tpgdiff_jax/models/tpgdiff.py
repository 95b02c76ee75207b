"""TPGDiff as one system: the priors of an image, and the network they guide."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tpgdiff_jax.models.unet import ConditionalUNet
from tpgdiff_jax.priors import Priors
from tpgdiff_jax.priors.compact import CompactEncoder
from tpgdiff_jax.priors.structural import StructuralPrior


class TPGDiff(nn.Module):
    """Join the prior branches with the UNet.

    Attributes:
      unet: the denoising network.
      encoder: gives the degradation and semantic vectors; None leaves both out.
      structure: gives the structural tokens; None leaves them out.
    """

    unet: ConditionalUNet
    encoder: CompactEncoder | None = None
    structure: StructuralPrior | None = None

    def extract_priors(self, lq: jax.Array) -> Priors:
        """Compute the priors of degraded images; once per image, not once per step.

        Args:
          lq: float [B, H, W, 3] in [0, 1].
        """
        return self.priors_and_logits(lq)[0]

    def priors_and_logits(self, lq: jax.Array) -> tuple[Priors, jax.Array | None]:
        """Return the priors and the degradation classifier's logits [B, classes] (or None)."""
        priors, logits = Priors(), None
        if self.encoder is not None:
            degradation, semantic, logits = self.encoder(lq)
            if self.unet.use_degradation:
                priors = priors.replace(degradation=degradation)
            if self.unet.use_semantic:
                priors = priors.replace(semantic=semantic)
        if self.structure is not None and self.unet.use_structure:
            priors = priors.replace(structure=self.structure(lq))
        return priors, logits

    def denoise(self, x_t: jax.Array, mu: jax.Array, t: jax.Array, priors: Priors) -> jax.Array:
        """Run the UNet; arguments and result as in `ConditionalUNet`."""
        return self.unet(x_t, mu, t, priors)

    def __call__(
        self, x_t: jax.Array, mu: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, jax.Array | None]:
        """Extract the priors of `mu` and denoise; what one training step needs.

        Returns:
          the UNet's answer [B, H, W, 3] and the degradation logits [B, classes] (or None).
        """
        priors, logits = self.priors_and_logits(mu)
        return self.denoise(x_t, mu, t, priors), logits


def build(config: ConfigDict) -> TPGDiff:
    """Build the system that a configuration describes, without weights.

    Args:
      config: a whole configuration; reads `model`, `priors` and `data.degradations`.
    """
    model, priors = config.model, config.priors
    kinds = {"dtype": jnp.dtype(model.dtype), "param_dtype": jnp.dtype(model.param_dtype)}
    unet = ConditionalUNet(
        width=model.width,
        multipliers=tuple(model.multipliers),
        use_degradation=model.use_degradation,
        use_semantic=model.use_semantic,
        use_structure=model.use_structure,
        attention_heads=model.attention_heads,
        head_dim=model.head_dim,
        first_attention_level=model.first_attention_level,
        identity_init=model.identity_init,
        **kinds,
    )
    encoder = structure = None
    if model.use_degradation or model.use_semantic:
        encoder = CompactEncoder(len(config.data.degradations), priors.encoder_width, **kinds)
    if model.use_structure:
        structure = StructuralPrior(
            cues=tuple(priors.cues),
            image_size=priors.map_size,
            encoder_width=priors.map_width,
            encoder_max_width=priors.map_max_width,
            num_latents=priors.tokens,
            connector_depth=priors.connector_depth,
            **kinds,
        )
    return TPGDiff(unet, encoder, structure)
