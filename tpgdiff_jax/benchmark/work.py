"""Divide images among processes and buckets, and read them."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tpgdiff_jax.benchmark.sets import Item
from tpgdiff_jax.benchmark.settings import Variant
from tpgdiff_jax.data.folders import list_images
from tpgdiff_jax.data.images import read_rgb
from tpgdiff_jax.data.matching import comparable
from tpgdiff_jax.evaluation.protocols import centre_cropped
from tpgdiff_jax.inference.batch import name_hashes
from tpgdiff_jax.inference.sizes import alike, padded_to
from tpgdiff_jax.reporting.errors import UserError

_LONGEST_NAME = 255  # bytes of a file's name, on nearly all file systems


@dataclasses.dataclass(frozen=True)
class Task:
    """One image to restore (or to find restored) in one way, and to score."""

    item: Item
    variant: Variant

    @property
    def key(self) -> tuple[str, str, str]:
        """What its line is filed under."""
        return self.variant.name, self.item.spec.name, self.item.name


class Kind(NamedTuple):
    """What images must share to share a program.

    Attributes:
      shape: (height, width) of the bucket.
      variant: how they are restored.
      protocol: how they are scored.
    """

    shape: tuple[int, int]
    variant: Variant
    protocol: str


def kind_of(task: Task, multiple: int) -> Kind:
    """Return the kind of a task in buckets whose sides are multiples of so many pixels."""
    return Kind(bucket_of(task.item.size, multiple), task.variant, task.item.spec.protocol)


def bucket_of(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the (height, width) that images of a size are padded to; with 1, their own."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def share_of(tasks: Sequence[Task], multiple: int, index: int, count: int) -> list[Task]:
    """Return part `index` of `count`, the same whenever the tasks are.

    Args:
      tasks: all of them.
      multiple: of the buckets' sides, pixels; images of one bucket stay together, so that a part
        compiles few programs.
      index, count: which part, of how many.
    """
    kinds = {task.key: str(kind_of(task, multiple)) for task in tasks}
    ordered = sorted(tasks, key=lambda task: (kinds[task.key], task.key))
    return ordered[len(tasks) * index // count : len(tasks) * (index + 1) // count]


def chunks(
    tasks: Sequence[Task], multiple: int, together: int, process: int, processes: int
) -> list[list[Task]]:
    """Divide tasks among processes, and a process's own into chunks of one kind.

    Args:
      tasks: the same in every process.
      multiple: of the buckets' sides, pixels.
      together: tasks of a chunk, at most.
      process, processes: this process's number, and how many there are.

    Returns:
      chunks, the buckets one after the other: a program serves all sets that have such images, and
      is then dropped.
    """
    kinds = {task.key: kind_of(task, multiple) for task in tasks}
    own = sorted(tasks, key=lambda task: str(kinds[task.key]))[process::processes]
    groups = alike([kinds[task.key] for task in own], lambda kind: together)
    return [[own[index] for index in indices] for indices in groups]


class Loaded(NamedTuple):
    """An image's arrays.

    Attributes:
      kind: its kind.
      size: its (height, width).
      name_hash: see `inference.batch.name_hashes`.
      lq, gt: uint8 [H, W, 3], padded; where there is no truth, `gt` is `lq`.
      restored: somebody's output, uint8 [H, W, 3], padded, or None.
    """

    kind: Kind
    size: tuple[int, int]
    name_hash: np.uint32
    lq: np.ndarray
    gt: np.ndarray
    restored: np.ndarray | None


def load(task: Task, multiple: int, seed: int, predictions: "Predictions | None") -> Loaded:
    """Read the images of a task and pad them to their bucket, as the priors see them, too.

    Raises:
      UserError: somebody's output is missing, ambiguous, or of another size.
      UnreadableImageError: a file is damaged.
    """
    item, kind = task.item, kind_of(task, multiple)
    lq, gt = item.load(seed)
    theirs = None if predictions is None else predictions.load(item)
    lq, gt, theirs = (
        None if image is None else padded_to(kind.shape, image) for image in (lq, gt, theirs)
    )
    (name_hash,) = name_hashes([item.name])
    return Loaded(kind, item.size, name_hash, lq, lq if gt is None else gt, theirs)


class Predictions:
    """Somebody's outputs: FOLDER/SET/..., or FOLDER/... where only one set is scored.

    A file belongs to the image of its name in the same sub-folder: first the name under which a
    benchmark keeps its own results (`kept_name`), so that these can be scored again; where there
    is none, the only file of the same stem.
    """

    def __init__(self, folder: pathlib.Path, sets: Sequence[str]):
        """List the files.

        Args:
          folder: where they are.
          sets: names of the sets to be scored.

        Raises:
          UserError: no such folder, or none of the sets' in it.
        """
        if not folder.is_dir():
            raise UserError(f"--predictions={folder} is no folder.")
        self._files: dict[str, dict[str, pathlib.Path]] = {}  # set -> name -> file
        self._stems: dict[str, dict[str, list[pathlib.Path]]] = {}  # set -> stem -> files
        for name in sets:
            base = folder / name
            if not base.is_dir() and len(sets) == 1:
                base = folder
            if base.is_dir():
                self._files[name] = {file: base / file for file in list_images(base).names}
                stems = self._stems[name] = {}
                for file, path in self._files[name].items():
                    stems.setdefault(_stem(file), []).append(path)
        if not any(self._files.values()):
            raise UserError(
                f"--predictions={folder} holds no images; expected sub-folders {', '.join(sets)}."
            )

    def path(self, item: Item) -> pathlib.Path:
        """Return the file that belongs to an image.

        Raises:
          UserError: there is none, or it is ambiguous.
        """
        same = self._of(item)
        if not same:
            raise UserError(f"no prediction for {item.name}")
        if len(same) > 1:
            names = " and ".join(path.name for path in same)
            raise UserError(f"ambiguous predictions for {item.name}: {names}")
        return same[0]

    def find(self, item: Item) -> pathlib.Path | None:
        """Return the file that belongs to an image; None where there is none, or several are."""
        same = self._of(item)
        return same[0] if len(same) == 1 else None

    def load(self, item: Item) -> np.ndarray:
        """Read the output that belongs to an image, cut as the protocol cuts the image.

        Raises:
          UserError: as `path`, or its size is another.
          UnreadableImageError: it is damaged.
        """
        path = self.path(item)
        image = read_rgb(path)
        found = image.shape[:2]
        image = centre_cropped(item.protocol, image)
        if image.shape[:2] != item.size:
            raise UserError(
                f"{path} is {found[1]}x{found[0]}, the image {item.name} "
                f"{item.size[1]}x{item.size[0]}"
            )
        return image

    def _of(self, item: Item) -> list[pathlib.Path]:
        own = self._files.get(item.spec.name, {}).get(kept_name(item.name))
        if own is not None:
            return [own]
        return self._stems.get(item.spec.name, {}).get(_stem(item.name), [])


def kept_name(image: str) -> str:
    """Return the name under which the result of an image is kept: its whole name, as a PNG.

    The suffix stays, so that `a.jpg` and `a.png` of one set do not become one file; it goes where
    no file can have so long a name.
    """
    path = pathlib.PurePath(image)
    is_short = len(os.fsencode(path.name)) + len(".png") <= _LONGEST_NAME
    if path.suffix != ".png" and is_short:
        return f"{image}.png"
    return str(path.with_suffix(".png"))


def _stem(name: str) -> str:
    return comparable(str(pathlib.PurePath(name).with_suffix("")))
