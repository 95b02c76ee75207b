"""Divide images among buckets, batches, processes and devices; read and write in the background.

Every process makes the same list of batches and takes its own rows of each, so that all run the
same number of programs; what a batch lacks is filled with nothing and masked.
"""

import dataclasses
import os
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from tpgdiff_jax.benchmark.sets import Item
from tpgdiff_jax.benchmark.settings import Variant
from tpgdiff_jax.data.images import UnreadableImageError, read_rgb
from tpgdiff_jax.data.sources import image_names
from tpgdiff_jax.evaluation.protocols import centre_cropped
from tpgdiff_jax.reporting.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """One image to restore (or to find restored) in one way, and to score."""

    item: Item
    variant: Variant

    @property
    def key(self) -> tuple[str, str, str]:
        """What its line is filed under."""
        return self.variant.name, self.item.spec.name, self.item.name


@dataclasses.dataclass(frozen=True)
class Batch:
    """Tasks of one bucket, variant and protocol.

    Attributes:
      shape: (height, width) of the bucket.
      rows: this process's tasks; None where there is nothing left.
      filled: so many rows at most that any process has a task in.
    """

    shape: tuple[int, int]
    variant: Variant
    protocol: str
    paired: bool
    rows: tuple[Task | None, ...]
    filled: int


def bucket_of(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Return the (height, width) that images of a size are padded to; with 1, their own."""
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def batches(
    tasks: Sequence[Task], multiple: int, devices: int, each: int, process: int, processes: int
) -> list[Batch]:
    """Divide the tasks.

    Args:
      tasks: in the same order in every process.
      multiple: of the buckets' sides, pixels.
      devices: of each process.
      each: images of a batch per device.
      process, processes: this process's number, and how many there are.

    Returns:
      as many batches in every process; rows lie call by call, one image per device and call.
    """
    groups: dict[tuple, list[Task]] = {}
    for task in tasks:
        item = task.item
        shape = bucket_of(item.size, multiple)
        kind = (shape, task.variant, item.spec.protocol, item.gt is not None)
        groups.setdefault(kind, []).append(task)
    found = []
    call = devices * processes
    # Buckets by size: a program serves all sets that have such images, and is then dropped.
    for kind, group in sorted(groups.items(), key=lambda entry: str(entry[0])):
        for start in range(0, len(group), call * each):
            whole = group[start : start + call * each]
            filled = -(-len(whole) // call) * devices
            whole += [None] * (call * each - len(whole))
            rows = [
                row
                for first in range(process * devices, len(whole), call)
                for row in whole[first : first + devices]
            ]
            found.append(Batch(*kind, tuple(rows), filled))
    return found


@dataclasses.dataclass
class Loaded:
    """A batch's arrays.

    Attributes:
      lq, gt: uint8 [b, H, W, 3], padded; zeros in rows that hold nothing.
      restored: somebody's outputs, uint8 [b, H, W, 3], or None.
      sizes: int32 [b, 2].
      hashes: of the images' names, uint32 [b].
      errors: why a row could not be read.
    """

    lq: np.ndarray
    gt: np.ndarray
    restored: np.ndarray | None
    sizes: np.ndarray
    hashes: np.ndarray
    errors: dict[int, str]


def load_batch(batch: Batch, seed: int, predictions: "Predictions | None") -> Loaded:
    """Read a batch; a row that cannot be read is left empty, and its error kept."""
    count = len(batch.rows)
    images = np.zeros((3, count, *batch.shape, 3), np.uint8)
    sizes = np.tile(np.array(batch.shape, np.int32), (count, 1))
    loaded = Loaded(*images, sizes, np.zeros(count, np.uint32), {})
    if predictions is None:
        loaded.restored = None
    for row, task in enumerate(batch.rows):
        if task is None:
            continue
        try:
            lq, gt = task.item.load(seed)
            if predictions is not None:
                loaded.restored[row] = _padded(predictions.load(task.item), batch.shape)
        except (UnreadableImageError, ValueError) as error:
            loaded.errors[row] = str(error)
            continue
        loaded.lq[row] = _padded(lq, batch.shape)
        loaded.gt[row] = loaded.lq[row] if gt is None else _padded(gt, batch.shape)
        loaded.sizes[row] = task.item.size
        loaded.hashes[row] = zlib.crc32(os.fsencode(task.item.name))
    return loaded


def _padded(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Reflect-pad at the bottom and right, as the UNet itself pads; the priors see it, too."""
    missing = [(0, want - side) for want, side in zip(shape, image.shape[:2], strict=True)]
    return np.pad(image, (*missing, (0, 0)), mode="reflect")


def read_ahead(
    planned: Sequence[Batch], seed: int, predictions: "Predictions | None"
) -> Iterator[tuple[Batch, Loaded]]:
    """Yield every batch with its arrays, reading the next one while this one is worked on."""
    with ThreadPoolExecutor(1) as pool:
        waiting: Future | None = None
        for index, batch in enumerate(planned):
            current = waiting or pool.submit(load_batch, batch, seed, predictions)
            loaded = current.result()
            if index + 1 < len(planned):
                waiting = pool.submit(load_batch, planned[index + 1], seed, predictions)
            yield batch, loaded


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
                self._files[name] = {file: base / file for file in image_names(base)}
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

    The suffix stays, so that `a.jpg` and `a.png` of one set do not become one file.
    """
    return image if pathlib.PurePath(image).suffix == ".png" else f"{image}.png"


def _stem(name: str) -> str:
    return str(pathlib.PurePath(name).with_suffix(""))
