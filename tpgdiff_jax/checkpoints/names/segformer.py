"""SegFormer as Hugging Face's transformers stores it: `SegformerForSemanticSegmentation`."""

from collections.abc import Mapping
from typing import Any

from tpgdiff_jax.backbones.segformer import SegFormer
from tpgdiff_jax.checkpoints.layouts import POINTWISE, SAME
from tpgdiff_jax.checkpoints.names.settings import axes, count, whole_numbers
from tpgdiff_jax.checkpoints.names.tables import reader
from tpgdiff_jax.reporting.errors import UserError

_BLOCK = r"segformer.encoder.block.\1.\2"
_OURS = r"stage_(\d+)/block_(\d+)"
_QKV = [rf"{_BLOCK}.attention.self.{name}" for name in ("query", "key", "value")]
_TABLE = {
    r"stage_(\d+)/embed": ([r"segformer.encoder.patch_embeddings.\1.proj"], None),
    r"stage_(\d+)/norm_embed": ([r"segformer.encoder.patch_embeddings.\1.layer_norm"], None),
    rf"{_OURS}/norm_attention": ([rf"{_BLOCK}.layer_norm_1"], None),
    rf"{_OURS}/attention/qkv": (_QKV, None),
    rf"{_OURS}/attention/out": ([rf"{_BLOCK}.attention.output.dense"], None),
    rf"{_OURS}/reduce": ([rf"{_BLOCK}.attention.self.sr"], None),
    rf"{_OURS}/norm_reduce": ([rf"{_BLOCK}.attention.self.layer_norm"], None),
    rf"{_OURS}/norm_mlp": ([rf"{_BLOCK}.layer_norm_2"], None),
    rf"{_OURS}/mlp/dense_in": ([rf"{_BLOCK}.mlp.dense1"], None),
    rf"{_OURS}/mlp/depthwise": ([rf"{_BLOCK}.mlp.dwconv.dwconv"], None),
    rf"{_OURS}/mlp/dense_out": ([rf"{_BLOCK}.mlp.dense2"], None),
    r"stage_(\d+)/norm_last": ([r"segformer.encoder.layer_norm.\1"], None),
    r"project_(\d+)": ([r"decode_head.linear_c.\1.proj"], None),
    r"fuse": (["decode_head.linear_fuse"], POINTWISE),
    r"batch_norm/mean": (["decode_head.batch_norm.running_mean"], SAME),
    r"batch_norm/var": (["decode_head.batch_norm.running_var"], SAME),
    r"batch_norm": (["decode_head.batch_norm"], None),
    r"classifier": (["decode_head.classifier"], POINTWISE),
}

LEFT_OUT: tuple[tuple[str, str], ...] = (
    (r"decode_head\.batch_norm\.num_batches_tracked", "counts training steps"),
)

_EMBED = "segformer.encoder.patch_embeddings.{}.proj.weight"
_FUSE = "decode_head.linear_fuse.weight"
_CLASSES = "decode_head.classifier.weight"

sources = reader(_TABLE)


def module_for(
    state_dict_shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None = None
) -> SegFormer:
    """Build the network, without weights, that a file describes.

    Args:
      state_dict_shapes: name -> shape of each array in the file.
      config: contents of the `config.json` beside it.  Without, heads are 32 channels wide, and
        stages shrink the image 4, 2, 2, 2 times, as in all published models.

    Returns:
      the module.

    Raises:
      UserError: another architecture; the message names what differs.
    """
    shapes, config = state_dict_shapes, config or {}
    for name, value in {"model_type": "segformer", "hidden_act": "gelu"}.items():
        if (found := config.get(name, value)) != value:
            raise UserError(f"config: {name}={found!r} is not supported, only {value!r}.")
    if missing := [key for key in (_EMBED.format(0), _FUSE, _CLASSES) if key not in shapes]:
        some = ", ".join(sorted(shapes)[:5]) or "none at all"
        raise UserError(
            f"This is no SegFormer for segmentation: it lacks {', '.join(missing)}. "
            f"First keys: {some}."
        )
    stages = count(shapes, r"segformer\.encoder\.patch_embeddings\.(\d+)\.")
    embeds = [axes(shapes, _EMBED.format(stage), 4) for stage in range(stages)]
    widths = tuple(shape[0] for shape in embeds)
    strides = (4, *[2] * (stages - 1))
    return SegFormer(
        widths=widths,
        depths=tuple(
            count(shapes, rf"segformer\.encoder\.block\.{stage}\.(\d+)\.")
            for stage in range(stages)
        ),
        heads=tuple(
            whole_numbers(config, "num_attention_heads", [max(width // 32, 1) for width in widths])
        ),
        reductions=tuple(
            _block_shape(shapes, stage, "attention.self.sr.weight", (1,) * 4)[-1]
            for stage in range(stages)
        ),
        patch_sizes=tuple(shape[-1] for shape in embeds),
        strides=tuple(whole_numbers(config, "strides", strides)),
        mlp_ratios=tuple(
            _block_shape(shapes, stage, "mlp.dense1.weight", (4 * width, width))[0] // width
            for stage, width in enumerate(widths)
        ),
        decoder=axes(shapes, _FUSE, 4)[0],
        num_classes=axes(shapes, _CLASSES, 4)[0],
    )


def _block_shape(shapes, stage, name, default):
    key = f"segformer.encoder.block.{stage}.0.{name}"
    return axes(shapes, key, len(default)) if key in shapes else default
