"""Photos and pairs from TensorFlow Datasets, read without TensorFlow.

Any data set will do that was prepared as ArrayRecord files; `writing.py` writes our own.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tpgdiff_jax.data.images import read_rgb
from tpgdiff_jax.data.labels import relabelled
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.data.records import stored_recipe
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.data.sources import Source, file_identity
from tpgdiff_jax.reporting.errors import UserError


class TfdsSource(Source):
    """Photos or pairs of any data set that TFDS has prepared as ArrayRecord files.

    Attributes:
      classes: names of the labels.
    """

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: str | os.PathLike | None = None,
        kind: str = "photos",
        *,
        image_key: str = "image",
        lq_key: str = "lq",
        gt_key: str = "gt",
        label_key: str = "label",
        name_key: str = "name",
        recipe_key: str = "recipe",
        classes: Sequence[str] | None = None,
        class_name: str | None = None,
        min_size: int = 1,
        cache_mb: int = 0,
        report: SkipReport | None = None,
    ):
        """Open a split.

        Args:
          name: of the data set, e.g. "restoration_pairs/default".
          split: e.g. "train" or "train[:90%]".
          data_dir: folder of TFDS data sets; None: TFDS' own default.
          kind: "photos" or "pairs".
          image_key: feature that holds the photo.
          lq_key, gt_key: features that hold a pair.
          label_key, name_key, recipe_key: features that may be missing.
          classes: fixes the labels' order; must name every class of the data set.
          class_name: what degraded all pairs, where the data set does not say.
          min_size: smallest usable height and width in pixels.
          cache_mb: decoded images kept in memory, in MiB.
          report: where bad records are listed; None starts a new list.

        Raises:
          UserError: unknown kind, no such data set, split or feature; TFDS is not installed.
        """
        try:
            import tensorflow_datasets as tfds  # takes a while, and few sources need it
        except ImportError as error:  # left out on machines without a network
            raise UserError(
                f"TFDS data set {name!r}: {error}; pip install tensorflow-datasets "
                "importlib_resources (TensorFlow itself is not needed)."
            ) from error
        if kind not in ("photos", "pairs"):
            raise UserError(f"TFDS data set {name!r}: kind={kind!r}, expected photos or pairs.")
        super().__init__(f"{name}[{split}]", min_size, cache_mb, report)
        self.unit = kind
        self._keys = (image_key,) if kind == "photos" else (lq_key, gt_key)
        self._label_key, self._name_key, self._recipe_key = label_key, name_key, recipe_key
        self._data = _open(name, split, data_dir)
        features = self._data.dataset_info.features
        for key in self._keys:
            if key not in features:
                raise UserError(
                    f"TFDS data set {name!r} has no feature {key!r} but {sorted(features)}; say "
                    "which one holds the image (image_key; lq_key and gt_key for pairs)."
                )
        # Bytes as stored: our decoder copes with more kinds of images, and needs no OpenCV.
        images = [k for k in features if isinstance(features[k], tfds.features.Image)]
        self._data.decoders = {key: tfds.decode.SkipDecoding() for key in images}
        if kind == "pairs":
            # A FeaturesDict is no dict: it has no `get`.
            label = dict(features.items()).get(label_key)
            stored = getattr(label, "names", None) or ()
            self.classes, self._labels = relabelled(stored, classes, self.root, class_name)
        self.found = len(self)

    def __len__(self) -> int:
        return len(self._data)

    def name(self, index: int) -> str:
        """Return the stored name, or the position in the split."""
        try:
            name = self._record(index).get(self._name_key)
        except UnreadableImageError:
            name = None
        return _text(name) or self._file(index)

    def identity(self) -> Iterator[str]:
        """Yield what each file is known by, and which of its records; reads none of them."""
        for part in self._data.dataset_info.splits[self._data.split].file_instructions:
            yield f"{file_identity(part.filename)} {part.skip} {part.take}"

    def recipe(self, index: int) -> Any:
        """Return the stored recipe, or None.

        Raises:
          UnreadableImageError: the record is damaged.
        """
        text = _text(self._record(index).get(self._recipe_key))
        return stored_recipe(text, self._file(index))

    @property
    def _fingerprint(self) -> str:
        return f"{self._data.dataset_info.full_name}, {self._data.split}"

    def _file(self, index: int) -> str:
        return f"{self.root}[{index}]"

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._data[index]
        except Exception as error:  # checksums, protos and decoders each have their own
            reason = str(error).partition(" (")[0].partition(";")[0] or type(error).__name__
            raise UnreadableImageError(self._file(index), f"damaged record: {reason}") from error

    def _read(self, index: int) -> Any:
        record = self._record(index)
        images = [_as_rgb(record[key], self._file(index)) for key in self._keys]
        if self.unit == "photos":
            return images[0]
        return self._pair(index, *images, int(record.get(self._label_key, 0)))


def _as_rgb(value: Any, name: str) -> np.ndarray:
    """Decode an image file, or check an image that was stored as numbers."""
    if isinstance(value, bytes):
        return read_rgb(value, name)
    value = np.asarray(value)
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[-1] != 3:
        raise UnreadableImageError(name, f"{value.dtype} {list(value.shape)} is no RGB image")
    return value


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _open(name: str, split: str, data_dir: str | os.PathLike | None) -> Any:
    """Open a prepared data set as a random-access source of records."""
    import tensorflow_datasets as tfds

    try:
        return tfds.data_source(name, split=split, data_dir=data_dir, download=False)
    except (ValueError, RuntimeError, AssertionError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise UserError(
            f"TFDS data set {name!r}, split {split!r}, cannot be read in data_dir={data_dir}: "
            f"{first_line} Check the names; public data sets must be prepared with "
            "file_format='array_record' (on any machine that has TensorFlow)."
        ) from error
