"""The training pipeline: photos -> crops -> degraded copies -> batches, with grain.

Every example is a pure function of (seed, position in the endless sequence), so neither the number
of threads nor a restart changes it.  The iterator's state goes into the checkpoint.
"""

import dataclasses
from collections.abc import Sequence

import grain
import numpy as np

from tpgdiff_jax.data.degradations.mix import degrade, sample_recipe
from tpgdiff_jax.data.sources import PhotoFolder


@dataclasses.dataclass(frozen=True)
class MakePair(grain.transforms.MapWithIndex):
    """Turn photo number `index` of the sequence into a pair of clean and degraded crops.

    Attributes:
      seed: of the whole sequence.
      crop_size: side of the crop in pixels.
      degradations: names of the degradations; they take turns, so all come equally often.
    """

    seed: int
    crop_size: int
    degradations: tuple[str, ...]

    def map_with_index(self, index: int, photo: np.ndarray) -> dict[str, np.ndarray]:
        """Return {gt, lq: uint8 [crop, crop, 3], label: int32}."""
        rng = np.random.default_rng([self.seed, index])
        gt = random_crop(rng, photo, self.crop_size)
        label = index % len(self.degradations)
        lq = degrade(gt, sample_recipe(rng, self.degradations[label]))
        return {"gt": gt, "lq": lq, "label": np.int32(label)}


@dataclasses.dataclass(frozen=True)
class ProcessShare:
    """One process's part of a sequence: its own rows of every global batch, in their order.

    Strided slices would deal the rows out in turn: the joined batches would be permuted, and with
    them the noise each example meets.

    Attributes:
      dataset: the whole sequence.
      local_batch: examples of one batch that belong to each process.
      process_index, process_count: this process and how many there are.
    """

    dataset: grain.MapDataset
    local_batch: int
    process_index: int
    process_count: int

    def __len__(self) -> int:
        return len(self.dataset) // self.process_count

    def __getitem__(self, index: int):
        batch, row = divmod(index, self.local_batch)
        first = (batch * self.process_count + self.process_index) * self.local_batch
        return self.dataset[first + row]


def random_crop(rng: np.random.Generator, photo: np.ndarray, size: int) -> np.ndarray:
    """Cut a random square, mirror it half of the time and turn it by a multiple of 90 degrees.

    Args:
      rng: source of randomness.
      photo: uint8 [H, W, 3], at least `size` pixels a side.
      size: side of the square in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    top = rng.integers(photo.shape[0] - size + 1)
    left = rng.integers(photo.shape[1] - size + 1)
    crop = photo[top : top + size, left : left + size]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(np.rot90(crop, rng.integers(4)))


def training_batches(
    photos: PhotoFolder,
    *,
    seed: int,
    crop_size: int,
    batch_size: int,
    degradations: Sequence[str],
    read_threads: int = 2,
    prefetch_batches: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset:
    """Build the endless sequence of training batches of one process.

    Args:
      photos: the clean photos.
      seed: decides order, crops and degradations.
      crop_size: side of the crops in pixels.
      batch_size: examples per batch over all processes.
      degradations: names of the degradations, in the order of their labels.
      read_threads, prefetch_batches: how far to work ahead; never changes a result.
      process_index, process_count: this process and how many there are.

    Returns:
      a grain dataset of {gt, lq: uint8 [b, crop, crop, 3], label: int32 [b]} with
      b = batch_size / process_count; its iterators can save and restore their state.

    Raises:
      ValueError: the batch cannot be divided among the processes.
    """
    if batch_size % process_count:
        raise ValueError(
            f"data.batch_size={batch_size} cannot be divided among {process_count} processes."
        )
    local_batch = batch_size // process_count
    dataset = grain.MapDataset.source(photos).seed(seed).shuffle().repeat()
    # The index is the position in the endless sequence, so each epoch draws new crops.
    dataset = dataset.map_with_index(MakePair(seed, crop_size, tuple(degradations)))
    share = ProcessShare(dataset, local_batch, process_index, process_count)
    dataset = grain.MapDataset.source(share)
    options = grain.ReadOptions(
        num_threads=read_threads, prefetch_buffer_size=prefetch_batches * local_batch
    )
    return dataset.to_iter_dataset(options).batch(local_batch, drop_remainder=True)
