"""Photos and pairs in ArrayRecord files: written and read without TensorFlow.

Each record is one msgpack map:

    {"name": str,                                  # as the source it came from called it
     "images": {"image": bytes} or {"lq": bytes, "gt": bytes},  # whole image files (PNG, JPEG ...)
     "label": int, "classes": [str, ...],          # class number, and the names of all classes
     "recipe": str}                                # JSON of how LQ was made; "" if unknown
"""

import bisect
import contextlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from tpgdiff_jax.data import record_files
from tpgdiff_jax.data.images import encode_png, read_rgb
from tpgdiff_jax.data.labels import relabelled
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.data.sources import Source, file_identity
from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable, replacing

_IMAGE_KEYS = (("image",), ("lq", "gt"))


def write_records(
    path: str | os.PathLike, examples: Iterable[Mapping[str, Any]], classes: Sequence[str] = ()
) -> int:
    """Write one ArrayRecord file, under a temporary name until it is complete.

    Args:
      path: where to; a file there is replaced.  Missing folders are made.
      examples: each with "name" and "image", or "lq" and "gt": uint8 [H, W, 3], stored as PNG, or
        the bytes of an image file, stored as they are.  Optional: "label" (int, default 0) and
        "recipe" (anything JSON can hold).
      classes: names of the labels.

    Returns:
      the number of records.

    Raises:
      UserError: no examples, or one that lacks something; nothing is left behind.
    """
    path = pathlib.Path(path)
    count = 0
    with replacing(path) as temporary:
        with record_files.open_writer(temporary) as writer:
            for example in examples:
                writer.write(_pack(example, classes, path))
                count += 1
        if not count:
            raise UserError(f"{path}: there are no examples to write.")
    return count


class _Records(Source):
    """The records of several files, one after the other."""

    keys: tuple[str, ...]

    def __init__(
        self,
        paths: str | os.PathLike | Sequence[str | os.PathLike],
        min_size: int = 1,
        cache_mb: int = 0,
        report: SkipReport | None = None,
        classes: Sequence[str] | None = None,
        class_name: str | None = None,
    ):
        """Open ArrayRecord files.

        Args:
          paths: a file, a folder of *.array_record* files, a pattern such as "/data/train-*", or a
            sequence of files.
          min_size: smallest usable height and width in pixels.
          cache_mb: decoded images kept in memory, in MiB.
          report: where bad records are listed; None starts a new list.
          classes: fixes the labels' order; must name every stored class.  None: as stored.
          class_name: what degraded all pairs, where the files do not say.

        Raises:
          UserError: no such file, a damaged one, or one with another kind of records.
        """
        files = record_files.find(paths)
        root = paths if isinstance(paths, str | os.PathLike) else os.path.commonpath(files)
        super().__init__(root, min_size, cache_mb, report)
        counts = [record_files.count(file) for file in files]
        self._files = files
        self._ends = list(itertools.accumulate(counts))
        self._data = record_files.opened(files, counts)
        self.found = len(self)
        stored = self._stored_classes()
        self.classes, self._labels = relabelled(stored, classes, self.root, class_name)

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        """Return the name stored in a record, or where the record is if it is damaged."""
        try:
            return self._record(index)["name"]
        except UnreadableImageError as error:
            return os.path.basename(error.file)

    def identity(self) -> Iterator[str]:
        """Yield what each file is known by, and its number of records; reads none of them."""
        for file, start, end in zip(self._files, [0, *self._ends], self._ends, strict=False):
            yield f"{file_identity(file)} {end - start}"

    def recipe(self, index: int) -> Any:
        """Return the stored recipe, or None.

        Raises:
          UnreadableImageError: the record is damaged.
        """
        text = self._record(index)["recipe"]
        return stored_recipe(text, self._file(index))

    @property
    def _fingerprint(self) -> str:
        return ", ".join(os.path.basename(file) for file in self._files[:3])

    def _file(self, index: int) -> str:
        number = bisect.bisect_right(self._ends, index)
        return f"{self._files[number]}[{index - (self._ends[number - 1] if number else 0)}]"

    def _record(self, index: int) -> dict[str, Any]:
        """Read and unpack a record."""
        try:
            record = msgpack.unpackb(self._data[index])
            if not _is_record(record):
                raise UserError("another kind of record")
        except (RuntimeError, ValueError, TypeError) as error:
            reason = str(error).partition(" (")[0].partition(";")[0] or type(error).__name__
            raise UnreadableImageError(self._file(index), f"damaged record: {reason}") from error
        return record

    def _images(self, index: int, record: dict[str, Any]) -> list[np.ndarray]:
        name = f"{self._file(index)} {record['name']}"
        if lacking := [key for key in self.keys if key not in record["images"]]:
            raise UnreadableImageError(self._file(index), f"damaged record: no {lacking[0]}")
        return [read_rgb(record["images"][key], name) for key in self.keys]

    def _stored_classes(self) -> tuple[str, ...]:
        """Read the classes from each file's first readable record; all must agree."""
        known = None
        for file, start, end in zip(self._files, [0, *self._ends], self._ends, strict=False):
            for index in range(start, end):
                with contextlib.suppress(UnreadableImageError):
                    record = self._record(index)
                    break
            else:
                raise UserError(f"{file}: not one record can be read; write the file anew.")
            if not set(self.keys) <= record["images"].keys():
                kind = "record_pairs" if "lq" in record["images"] else "record_photos"
                raise UserError(
                    f"{file} holds {'/'.join(record['images'])}, expected {'/'.join(self.keys)}; "
                    f"open it as {kind}."
                )
            classes = tuple(record["classes"])
            if known is not None and classes != known:
                raise UserError(
                    f"{file} has the classes {list(classes)}, {self._files[0]} has {list(known)}; "
                    "open them as separate sources or write them anew."
                )
            known = classes
        return known


class RecordPhotos(_Records):
    """Clean photos in ArrayRecord files: `source[i]` is uint8 [H, W, 3] or None."""

    keys = ("image",)

    def _read(self, index: int) -> np.ndarray:
        return self._images(index, self._record(index))[0]


class RecordPairs(_Records):
    """Pairs in ArrayRecord files: `source[i]` is {"lq", "gt", "label"} or None."""

    unit = "pairs"
    keys = ("lq", "gt")

    def _read(self, index: int) -> dict[str, Any]:
        record = self._record(index)
        return self._pair(index, *self._images(index, record), record["label"])


def stored_recipe(text: str, where: str) -> Any:
    """Read the recipe that a record holds; None for "".

    Raises:
      UnreadableImageError: it is no JSON.
    """
    try:
        return json_text.loads(text) if text else None
    except ValueError as error:
        raise UnreadableImageError(where, f"its recipe is no JSON: {error}") from error


def _is_record(record: Any) -> bool:
    """Tell whether something unpacked has the form that this file begins with."""
    if not isinstance(record, dict):
        return False
    images, classes = record.get("images"), record.get("classes")
    return (
        isinstance(images, dict)
        and all(isinstance(k, str) and isinstance(v, bytes) for k, v in images.items())
        and isinstance(classes, list)
        and all(isinstance(name, str) for name in classes)
        and isinstance(record.get("name"), str)
        and isinstance(record.get("recipe"), str)
        and isinstance(record.get("label"), int)
    )


def _pack(example: Mapping[str, Any], classes: Sequence[str], path: pathlib.Path) -> bytes:
    """Serialise one example, checking what a reader will rely on."""
    name = example.get("name")
    keys = next((keys for keys in _IMAGE_KEYS if set(keys) <= example.keys()), None)
    if not isinstance(name, str) or keys is None:
        raise UserError(
            f"{path}: an example needs 'name' (text) and 'image', or 'lq' and 'gt'; got "
            f"{sorted(example)} with name {name!r}."
        )
    label = int(example.get("label", 0))
    if classes and not 0 <= label < len(classes):
        raise UserError(f"{path}: {name} has label {label}, but there are {len(classes)} classes.")
    recipe = example.get("recipe")
    record = {
        "name": printable(name),  # a file's name may be no text
        "images": {key: as_image_file(example[key]) for key in keys},
        "label": label,
        "classes": list(classes),
        "recipe": "" if recipe is None else json.dumps(recipe),
    }
    return msgpack.packb(record)


def as_image_file(image: np.ndarray | bytes) -> bytes:
    """Return the bytes of an image file as they are, and an array as PNG."""
    return image if isinstance(image, bytes) else encode_png(image)
