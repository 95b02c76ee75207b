"""TPGDiff as one system: the priors of an image, and the network they guide."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from tpgdiff_jax import native
from tpgdiff_jax.backbones.conv_tower import ConvTower
from tpgdiff_jax.backbones.depth_anything import DepthAnything
from tpgdiff_jax.backbones.frozen import apply_frozen
from tpgdiff_jax.backbones.segformer import SegFormer
from tpgdiff_jax.backbones.vit import ClipImageTower
from tpgdiff_jax.models.lean import LeanUNet
from tpgdiff_jax.models.unet import ConditionalUNet, GuidedUNet
from tpgdiff_jax.priors import Priors, compact, structural
from tpgdiff_jax.priors.compact import CompactEncoder
from tpgdiff_jax.priors.degradation import DegradationPrior
from tpgdiff_jax.priors.semantic import SemanticPrior
from tpgdiff_jax.priors.structural import StructuralPrior
from tpgdiff_jax.reporting.errors import UserError

ENCODERS = ("compact", "clip", "conv", "none")
UNETS = ("released", "lean")
# Of the encoders, the ones that stage one trains; they are frozen in stage two.
TAUGHT_ENCODERS = ("clip", "conv")
# Of the cues, those that a frozen network draws.
CUE_NETS = {"depth": DepthAnything, "segmentation": SegFormer}
# What a system may hold that learns in stage two.
TRAINED = ("unet", "structure", "encoder")


class TPGDiff(nn.Module):
    """Join the prior branches with the UNet.

    The UNet, the structural encoder and the compact encoder are trained (collection `params`); the
    semantic and degradation networks of stage one, depth and segmentation are `frozen`.

    Attributes:
      unet: the denoising network.
      encoder: gives the degradation and semantic vectors where stage one's networks do not.
      semantic, degradation: stage one's networks; each gives its vector.
      structure: gives the structural tokens.
      Any of them may be None: that branch is then left out, unless its vectors are given.
    """

    unet: GuidedUNet
    encoder: CompactEncoder | None = None
    semantic: SemanticPrior | None = None
    degradation: DegradationPrior | None = None
    structure: StructuralPrior | None = None

    def extract_priors(self, lq: jax.Array, known: dict[str, jax.Array] | None = None) -> Priors:
        """Compute the priors of degraded images; once per image, not once per step.

        Args:
          lq: float [B, H, W, 3] in [0, 1].
          known: what need not be computed: `degradation` and `semantic` vectors [B, 512], `depth`
            and `segmentation` maps [B, h, w, 1] in [0, 1]; each takes its network's place.
        """
        return self.priors_and_logits(lq, known)[0]

    def priors_and_logits(
        self, lq: jax.Array, known: dict[str, jax.Array] | None = None
    ) -> tuple[Priors, jax.Array | None]:
        """Return the priors and the degradation classifier's logits [B, classes] (or None)."""
        known = dict(known or {})
        logits = None
        if self.encoder is not None:
            degradation, semantic, logits = self.encoder(lq)
            known = {"degradation": degradation, "semantic": semantic} | known
        if self.semantic is not None and "semantic" not in known:
            view = self.semantic.student.view(lq)
            known["semantic"] = apply_frozen(self, "semantic", self.semantic, view)
        if self.degradation is not None and "degradation" not in known:
            view = self.degradation.backbone.view(lq)
            answer = apply_frozen(self, "degradation", self.degradation, view)
            known["degradation"], logits = answer
        priors = Priors()
        if self.unet.use_degradation:
            priors = priors.replace(degradation=known.get("degradation"))
        if self.unet.use_semantic:
            priors = priors.replace(semantic=known.get("semantic"))
        if self.structure is not None and self.unet.use_structure:
            tokens = self.structure(lq, known.get("depth"), known.get("segmentation"))
            priors = priors.replace(structure=tokens)
        return priors, logits

    def denoise(self, x_t: jax.Array, mu: jax.Array, t: jax.Array, priors: Priors) -> jax.Array:
        """Run the UNet; arguments and result as in `ConditionalUNet`."""
        return self.unet(x_t, mu, t, priors)

    def __call__(
        self,
        x_t: jax.Array,
        mu: jax.Array,
        t: jax.Array,
        known: dict[str, jax.Array] | None = None,
        present: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Extract the priors of `mu` and denoise; what one training step needs.

        Args:
          x_t, mu, t: as in `ConditionalUNet`.
          known: as in `extract_priors`.
          present: as in `Priors`.

        Returns:
          the UNet's answer [B, H, W, 3] and the degradation logits [B, classes] (or None).
        """
        priors, logits = self.priors_and_logits(mu, known)
        priors = priors.replace(present=present)
        return self.denoise(x_t, mu, t, priors), logits


def choose_convolutions(config: ConfigDict) -> None:
    """Let all programs compiled from now on compute as `model.convolutions` says.

    Raises:
      UserError: it is `onednn`, which cannot run here.
    """
    try:
        native.choose(config.model.convolutions)
    except native.ChoiceError as error:
        raise UserError(str(error)) from error


def build(config: ConfigDict) -> TPGDiff:
    """Build the system that a configuration describes, without weights.

    `model.convolutions` applies to all programs compiled from now on (`choose_convolutions`).

    Args:
      config: a whole configuration; reads `model`, `priors`, `data.degradations` and `mesh`.

    Raises:
      UserError: `model.convolutions` is `onednn`, which cannot run here.
    """
    model, priors = config.model, config.priors
    choose_convolutions(config)
    dtypes = _dtypes(config)
    branches: dict[str, Any] = {}
    classes = len(config.data.degradations)
    if priors.encoder in TAUGHT_ENCODERS:
        if model.use_semantic:
            branches["semantic"] = SemanticPrior(image_tower(config))
        if model.use_degradation:
            branches["degradation"] = degradation_prior(config)
    elif priors.encoder == "compact" and (model.use_degradation or model.use_semantic):
        branches["encoder"] = CompactEncoder(classes, priors.encoder_width, **dtypes)
    if model.use_structure and priors.cues:
        whole = {"whole": _split(config.mesh.tensor, config.mesh.spatial)["whole"]}
        nets = {
            f"{cue}_net": _from_fields(kind, priors[f"{cue}_net"], dtypes | whole)
            for cue, kind in CUE_NETS.items()
            if cue in priors.cues
        }
        branches["structure"] = StructuralPrior(
            cues=tuple(priors.cues),
            **nets,
            depth_size=priors.depth_size,
            segmentation_size=priors.segmentation_size,
            image_size=priors.map_size,
            encoder_width=priors.map_width,
            encoder_max_width=priors.map_max_width,
            num_latents=priors.tokens,
            connector_depth=priors.connector_depth,
            **dtypes,
        )
    return TPGDiff(build_unet(config), **branches)


def has_classifier(config: ConfigDict) -> bool:
    """Tell whether the system that a configuration describes names degradations."""
    model, encoder = config.model, config.priors.encoder
    uses = model.use_degradation or (encoder == "compact" and model.use_semantic)
    return encoder != "none" and uses


def build_unet(config: ConfigDict) -> GuidedUNet:
    """Build the UNet that `config.model` describes, without weights."""
    model = config.model
    shared = {
        "width": model.width,
        "multipliers": tuple(model.multipliers),
        "use_degradation": model.use_degradation,
        "use_semantic": model.use_semantic,
        "use_structure": model.use_structure,
        "identity_init": model.identity_init,
        "remat": model.remat,
    } | _dtypes(config)
    if model.unet == "lean":
        return LeanUNet(blocks=tuple(model.blocks), middle_blocks=model.middle_blocks, **shared)
    return ConditionalUNet(
        attention_heads=model.attention_heads,
        head_dim=model.head_dim,
        first_attention_level=model.first_attention_level,
        **_split(config.mesh.tensor, config.mesh.spatial),
        **shared,
    )


def laid_over(model: TPGDiff, *, tensor: int = 1, spatial: int = 1) -> TPGDiff:
    """Return a system that is told over how many devices heads and rows are split.

    Args:
      model: a system; its own answer is of `config.mesh`, the mesh it is trained on.
      tensor, spatial: sizes of those axes of the mesh that it will run on.
    """
    split = _split(tensor, spatial)
    if isinstance(model.unet, ConditionalUNet):
        model = model.clone(unet=model.unet.clone(**split))
    for cue, net in cue_nets(model).items():
        net = net.clone(whole=split["whole"])
        model = model.clone(structure=model.structure.clone(**{f"{cue}_net": net}))
    return model


def _split(tensor: int, spatial: int) -> dict[str, Any]:
    return {"head_parts": max(1, tensor), "whole": tensor == spatial == 1}


def image_tower(config: ConfigDict) -> ClipImageTower | ConvTower:
    """Build the image tower that student and degradation backbone share the shape of."""
    if config.priors.encoder == "conv":
        return _from_fields(ConvTower, config.priors.conv, _dtypes(config))
    return _from_fields(ClipImageTower, config.priors.clip, _dtypes(config))


def degradation_prior(config: ConfigDict) -> DegradationPrior:
    """Build stage one's degradation backbone and classifier."""
    tower = image_tower(config)
    return DegradationPrior(
        tower,
        len(config.data.degradations),
        blocks=config.priors.head_blocks,
        **tower.dtypes,
    )


def _dtypes(config: ConfigDict) -> dict[str, jnp.dtype]:
    return {name: jnp.dtype(config.model[name]) for name in ("dtype", "param_dtype")}


def _from_fields(kind: type[nn.Module], sizes: ConfigDict, dtypes: dict[str, Any]) -> nn.Module:
    """Build a network whose fields a group of the configuration names one by one."""
    fields = {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in sizes.items()
    }
    return kind(**fields, **dtypes)


def row_shrinking(config: ConfigDict) -> list[tuple[str, int, str, int]]:
    """Tell how far the trained networks shrink image rows; what `spatial` meshes must respect.

    Args:
      config: a whole configuration; reads `model`, `priors` and `data.crop_size`.

    Returns:
      (config key of the rows, their number, the network, by how much it shrinks them) of each.
    """
    model, priors = config.model, config.priors
    crop = ("data.crop_size", config.data.crop_size)
    rows = [(*crop, "the UNet", 2 ** len(model.multipliers))]  # it pads to multiples of this
    if priors.encoder == "compact" and (model.use_degradation or model.use_semantic):
        rows.append((*crop, "the compact encoder", compact.DOWNSAMPLING))
    if model.use_structure and priors.cues:
        factor = structural.MAP_DOWNSAMPLING
        rows.append(("priors.map_size", priors.map_size, "the structural encoder", factor))
    return rows


def trained_networks(model: TPGDiff) -> dict[str, nn.Module]:
    """Return the networks that learn in stage two, by their names in the collection `params`."""
    networks = {name: getattr(model, name) for name in TRAINED}
    return {name: network for name, network in networks.items() if network is not None}


def frozen_networks(model: TPGDiff) -> dict[str, Any]:
    """Return the networks whose weights the collection `frozen` must hold, nested as it is.

    Returns:
      {"semantic", "degradation", "structure": {"depth", "segmentation"}}, as far as they exist.
    """
    networks: dict[str, Any] = {}
    for name in ("semantic", "degradation"):
        if getattr(model, name) is not None:
            networks[name] = getattr(model, name)
    if nets := cue_nets(model):
        networks["structure"] = nets
    return networks


def cue_nets(model: TPGDiff) -> dict[str, nn.Module]:
    """Return the frozen networks that draw cues, by the cue."""
    nets = {cue: getattr(model.structure, f"{cue}_net", None) for cue in CUE_NETS}
    return {cue: net for cue, net in nets.items() if net is not None}
