"""TPGDiff as one system: the priors of an image, and the network they guide."""

import flax.linen as nn
import jax

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
