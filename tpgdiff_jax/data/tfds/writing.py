"""Write TensorFlow Datasets without TensorFlow.

The parts of TFDS that call TensorFlow are gone around: images are handed over as PNG files, so that
its serialiser has nothing to encode, and ArrayRecord shards are written directly.
"""

import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tpgdiff_jax.data.record_files import open_writer
from tpgdiff_jax.data.records import as_image_file
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable


def write_tfds(
    data_dir: str | os.PathLike,
    name: str,
    split: str,
    examples: Iterable[Mapping[str, Any]],
    *,
    config: str = "default",
    classes: Sequence[str] = (),
    examples_per_shard: int = 1024,
) -> pathlib.Path:
    """Write one split of a data set that `tfds.data_source(f"{name}/{config}", ...)` reads.

    Other splits of the same data set are kept.  The split appears when all of it is written.

    Args:
      data_dir: the folder of TFDS data sets.
      name: "restoration_photos" or "restoration_pairs".
      split: name of the split, e.g. "test"; must not exist yet.
      examples: as for `records.write_records`: each with "name" and "image", or "lq" and "gt"
        (uint8 [H, W, 3] or the bytes of a PNG or JPEG file), "label" and "recipe".
      config: tells several data sets of one name apart.
      classes: names of the labels; pairs only.
      examples_per_shard: so many examples go into one file.

    Returns:
      the data set's folder, DATA_DIR/NAME/CONFIG/VERSION.

    Raises:
      UserError: unknown name, existing split, other classes than the other splits, no examples, or
        an example that lacks something.
    """
    builder = _new_builder(data_dir, name, config)
    info, folder = builder.info, pathlib.Path(builder.data_dir)
    if split in info.splits:
        raise UserError(
            f"{folder} holds the split {split!r} already; name another split or config, or delete "
            "that folder."
        )
    _set_classes(info, tuple(classes), folder)
    partial = folder.with_name(f".{folder.name}.{split}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        shards, lengths = _write_shards(partial, info, examples, examples_per_shard)
        if not shards:
            raise UserError(f"{folder}: there are no examples to write as split {split!r}.")
        _publish(info, folder, split, shards, lengths)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _new_builder(data_dir: str | os.PathLike, name: str, config: str) -> Any:
    """Return the builder of one of our data sets, prepared before or not."""
    import tensorflow_datasets as tfds  # takes a while

    from tpgdiff_jax.data.tfds import builders

    known = (builders.RestorationPhotos, builders.RestorationPairs)
    classes = {builder.name: builder for builder in known}
    if name not in classes:
        raise UserError(f"TFDS data set {name!r} is none of ours: {sorted(classes)}.")
    if config not in classes[name].builder_configs:
        config = tfds.core.BuilderConfig(name=config)
    return classes[name](data_dir=data_dir, config=config, file_format="array_record")


def _set_classes(info: Any, classes: tuple[str, ...], folder: pathlib.Path) -> None:
    """Store the labels' names, which all splits share."""
    if "label" not in info.features:
        return
    label = info.features["label"]
    known = tuple(label.names) if info.splits else None
    if known is None:
        label.names = classes or ("unknown",)
    elif known != (classes or ("unknown",)):
        raise UserError(
            f"{folder} has the classes {list(known)}, the new split {list(classes)}; use the same "
            "or another config."
        )


def _write_shards(
    partial: pathlib.Path, info: Any, examples: Iterable[Mapping[str, Any]], per_shard: int
) -> tuple[list[pathlib.Path], list[int]]:
    """Write the examples in their order; return the files and how many each holds."""
    shards: list[pathlib.Path] = []
    lengths: list[int] = []
    examples = iter(examples)
    while (first := next(examples, None)) is not None:
        shards.append(partial / f"{len(shards):05d}")
        lengths.append(0)
        with open_writer(shards[-1]) as writer:
            for example in itertools.chain([first], itertools.islice(examples, per_shard - 1)):
                writer.write(_serialise(info, example))
                lengths[-1] += 1
    return shards, lengths


def _serialise(info: Any, example: Mapping[str, Any]) -> bytes:
    """Turn one example into the bytes of a tf.train.Example."""
    stored = {}
    for key in info.features:
        if key in ("image", "lq", "gt", "name") and key not in example:
            raise UserError(f"{info.full_name}: an example needs {key!r}; got {sorted(example)}.")
        if key == "label":
            stored[key] = int(example.get(key, 0))
        elif key == "recipe":
            recipe = example.get(key)
            stored[key] = "" if recipe is None else json.dumps(recipe)
        elif key == "name":
            stored[key] = printable(example[key])  # a file's name may be no text
        else:
            stored[key] = as_image_file(example[key])
    return info.features.serialize_example(stored)


def _publish(
    info: Any, folder: pathlib.Path, split: str, shards: list[pathlib.Path], lengths: list[int]
) -> None:
    """Move finished shards to their place; the description, which makes them count, comes last."""
    from tensorflow_datasets import core

    template = core.ShardedFileTemplate(
        dataset_name=info.name, data_dir=folder, split=split, filetype_suffix="array_record"
    )
    num_bytes = sum(shard.stat().st_size for shard in shards)
    new = core.SplitInfo(
        name=split, shard_lengths=lengths, num_bytes=num_bytes, filename_template=template
    )
    info.set_splits(core.SplitDict([*info.splits.values(), new]))
    partial = shards[0].parent
    described = partial / "description"
    described.mkdir()
    info.write_to_directory(described)
    folder.mkdir(parents=True, exist_ok=True)
    for index, shard in enumerate(shards):
        target = template.sharded_filepath(shard_index=index, num_shards=len(shards))
        os.replace(shard, target)
    for file in sorted(described.iterdir(), key=lambda file: file.name == "dataset_info.json"):
        os.replace(file, folder / file.name)
    # Where TFDS looks for the configuration that a bare name means.
    default = folder.parent.parent / ".config" / "metadata.json"
    if not default.exists():
        default.parent.mkdir(exist_ok=True)
        default.write_text(json.dumps({"default_config_name": "default"}))
