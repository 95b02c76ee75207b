"""Names of the structural prior's parameters in the released program's files."""

import re
from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.checkpoints.layouts import MATRIX, POINTWISE, SAME
from tpgdiff_jax.checkpoints.names.settings import axes, count
from tpgdiff_jax.checkpoints.names.tables import reader
from tpgdiff_jax.priors.structural import StructuralPrior
from tpgdiff_jax.reporting.errors import UserError

_ATTENTIONS = {
    r"connector/cross_attention": r"connector.cross_attn",
    r"connector/self_attention_(\d+)": r"connector.self_attn\1",
}
_TABLE = {
    r"modality": (["modality_embed"], SAME),
    r"encoder/proj": (["struct_encoder.proj"], POINTWISE),
    # In the released stack an activation follows each convolution.
    **{rf"encoder/conv_{i}": ([f"struct_encoder.conv.{2 * i}"], None) for i in range(12)},
    r"connector/latents": (["connector.latent_tokens"], SAME),
    r"connector/norm_queries": (["connector.ln_q"], None),
    r"connector/norm_keys": (["connector.ln_kv"], None),
    r"connector/norm_self_(\d+)": ([r"connector.ln_self\1"], None),
}
for _ours, _theirs in _ATTENTIONS.items():
    _TABLE[f"{_ours}/qkv/kernel"] = ([f"{_theirs}.in_proj_weight"], MATRIX)
    _TABLE[f"{_ours}/qkv/bias"] = ([f"{_theirs}.in_proj_bias"], SAME)
    _TABLE[f"{_ours}/out"] = ([f"{_theirs}.out_proj"], None)
for _round in range(9):
    _mlp = f"connector.mlp{_round + 1}"
    _TABLE[f"connector/norm_mlp_{_round}"] = ([f"{_mlp}.0"], None)
    _TABLE[f"connector/mlp_{_round}/dense_in"] = ([f"{_mlp}.1"], None)
    _TABLE[f"connector/mlp_{_round}/dense_out"] = ([f"{_mlp}.3"], None)


def module_for(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None = None
) -> StructuralPrior:
    """Build the prior, without networks and weights, that a released file describes.

    Args:
      shapes: name -> shape of each array in the file.
      config: not used; there is none beside such files.

    Raises:
      UserError: the file lacks the keys that tell the widths, so it is no structural prior.
    """
    del config
    needed = ("struct_encoder.conv.0.weight", "connector.latent_tokens", "modality_embed")
    missing = [key for key in needed if key not in shapes]
    if missing:
        some = ", ".join(sorted(shapes)[:5]) or "none at all"
        raise UserError(
            f"This is no structural prior of the released program: its keys {', '.join(missing)} "
            f"are missing. First keys found: {some}."
        )
    latents = axes(shapes, "connector.latent_tokens", 3)
    convs = [key for key in shapes if re.fullmatch(r"struct_encoder\.conv\.\d+\.bias", key)]
    return StructuralPrior(
        encoder_width=axes(shapes, "struct_encoder.conv.0.weight", 4)[0],
        encoder_max_width=max((axes(shapes, key, 1)[0] for key in convs), default=1),
        features=latents[-1],
        num_latents=latents[-2],
        connector_depth=count(shapes, r"connector\.self_attn(\d+)\.", first=1),
    )


sources = reader(_TABLE)
