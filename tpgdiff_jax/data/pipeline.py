"""The training pipeline: sources -> crops -> degraded copies -> batches, with grain.

Every example is a pure function of (seed, its position in the endless sequence).  So the number of
threads, workers or processes changes nothing, and a run continues exactly by starting at the
position it had reached, on whatever machines it continues.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from PIL import Image

from tpgdiff_jax.data import worker_process
from tpgdiff_jax.data.degradations.mix import Mixture, Recipe, degrade
from tpgdiff_jax.data.labels import degradations_of
from tpgdiff_jax.data.tone import dark_photo, pale_photo, random_tone, soft_photo, vivid_photo
from tpgdiff_jax.reporting.errors import UserError

# Degradations that a soft photo could be mistaken for.
BLURS = ("blur", "defocus", "motion_blur")
# Those that a pale photo could be mistaken for.
VEILS = ("haze", "cloud_thin", "cloud_thick")
# A photo that cannot be used is replaced by another; so many in a row mean that all are bad.
_MOST_REPLACED = 100
# A program that stops waits for the batches it has asked for; small ones must not be thousands.
_MOST_BATCHES_AHEAD = 16


@dataclasses.dataclass(frozen=True)
class OfSource(grain.transforms.MapWithIndex):
    """Mark a number as an element of one of several sources.

    It keeps its place among those of its source: sources are mixed in a fixed rhythm, so whatever
    takes turns by the place in the mixture would meet some of them only.

    Attributes:
      source: number of the source.
    """

    source: int

    def map_with_index(self, index: int, element: int) -> tuple[int, int, int]:
        """Return (number of the source, number of the element, place among the source's)."""
        return self.source, element, index


@dataclasses.dataclass(frozen=True)
class MakeExample(grain.transforms.MapWithIndex):
    """Turn a place in the sequence into a pair of clean and degraded crops.

    Attributes:
      sources: of clean photos (uint8 [H, W, 3]), or of pairs ({gt, lq, label}).
      seed: of the whole sequence.
      crop_size: side of the crop in pixels.
      mixture: how clean photos are degraded; its names number the labels.
      multi_hot: labels say of every degradation whether it is there, float32 [K]; else the number
        of the only one, K for pairs of a class that names none.
      tone_jitter: see `random_tone`.
      crop_share: see `random_crops`.
      dark_share: of the examples whose clean photo is rendered dark last (see `dark_photo`);
        those that lack light are not.
      vivid_share: of the examples whose clean photo gets full contrast, see `vivid_photo`.
      soft_share: of the examples whose clean photo is soft, see `soft_photo`; those that are
        blurred are not.
      pale_share: of the examples whose clean photo is pale and grey, see `pale_photo`; those that
        are veiled are not, and none of them is dark.
    """

    sources: tuple[Any, ...]
    seed: int
    crop_size: int
    mixture: Mixture
    multi_hot: bool = False
    tone_jitter: float = 0.0
    crop_share: tuple[float, ...] = ()
    dark_share: float = 0.0
    vivid_share: float = 0.0
    soft_share: float = 0.0
    pale_share: float = 0.0

    def map_with_index(self, index: int, element: tuple[int, int, int]) -> dict[str, np.ndarray]:
        """Return {gt, lq: uint8 [crop, crop, 3], label}, and the recipe as `Mixture.encode` has it.

        A pair that was found, not made, has recipe_seed -1 and no severities.

        Args:
          index: position in the endless sequence, so that each epoch draws anew.
          element: as `OfSource` made it.
        """
        rng = np.random.default_rng([self.seed, index])
        number, of_source, turn = element
        source = self.sources[number]
        found = self._usable(source, of_source, index)
        if isinstance(found, dict):
            pair = (found["gt"], found["lq"])
            gt, lq = random_crops(rng, pair, self.crop_size, self.crop_share)
            present = np.zeros(len(self.mixture.names), np.float32)
            for name in degradations_of(source.classes[int(found["label"])]):
                present[self.mixture.names.index(name)] = 1
            carried = self.mixture.encode(Recipe((), -1))
        else:
            (gt,) = random_crops(rng, (found,), self.crop_size, self.crop_share)
            gt = random_tone(rng, gt, self.tone_jitter)
            recipe = self.mixture.draw(rng, turn)
            gt = self._rendered(rng, gt, recipe)
            lq = degrade(gt, recipe)
            present = self.mixture.multi_hot(recipe)
            carried = self.mixture.encode(recipe)
        number = present.argmax() if present.any() else len(present)
        label = present if self.multi_hot else np.int32(number)
        return {"gt": gt, "lq": lq, "label": label, **carried}

    def _rendered(self, rng, gt: np.ndarray, recipe: Recipe) -> np.ndarray:
        """Render the clean photo in other ways, as far as the recipe leaves it recognisable."""
        names = {name for name, _ in recipe.steps}
        # Shares of 0 draw nothing, so that examples without them stay what they were.
        if self.vivid_share and rng.random() < self.vivid_share:
            gt = vivid_photo(rng, gt)
        if self.soft_share and rng.random() < self.soft_share and not names & set(BLURS):
            gt = soft_photo(rng, gt)
        if self.pale_share and rng.random() < self.pale_share and not names & set(VEILS):
            return pale_photo(rng, gt)
        # Last, for a dark photo of full contrast would not be dark.
        if self.dark_share and rng.random() < self.dark_share and "low_light" not in names:
            gt = dark_photo(rng, gt)
        return gt

    def _usable(self, source, number: int, index: int):
        """Return an element; a bad one is replaced by others, the same at every run."""
        for attempt in range(_MOST_REPLACED):
            found = source[number]
            if found is not None and self._is_large(found):
                return found
            rng = np.random.default_rng([self.seed, index, attempt])
            number = int(rng.integers(len(source)))
        bad = source.report.items(source.root)
        reported = f" Reported: {source.report.describe(bad)}." if bad else ""
        raise UserError(
            f"{source.root!r}: {_MOST_REPLACED} images in a row cannot be read or are smaller than "
            f"data.crop_size={self.crop_size}.{reported}"
        )

    def _is_large(self, found) -> bool:
        image = found["gt"] if isinstance(found, dict) else found
        return min(image.shape[:2]) >= self.crop_size


@dataclasses.dataclass(frozen=True)
class ProcessShare:
    """One process's part of a sequence: its own rows of every global batch, in their order.

    Strided slices would deal the rows out in turn: the joined batches would be permuted, and with
    them the noise each example meets.

    Attributes:
      dataset: the whole sequence.
      local_batch: examples of one batch that belong to each process.
      process_index, process_count: this process and how many there are.
      first_batch: batches of the sequence that are over already.
    """

    dataset: grain.MapDataset
    local_batch: int
    process_index: int
    process_count: int
    first_batch: int = 0

    def __len__(self) -> int:
        return len(self.dataset) // self.process_count - self.first_batch * self.local_batch

    def __getitem__(self, index: int):
        batch, row = divmod(index, self.local_batch)
        batch += self.first_batch
        first = (batch * self.process_count + self.process_index) * self.local_batch
        return self.dataset[first + row]


def random_crops(
    rng: np.random.Generator, images: Sequence[np.ndarray], size: int, share: Sequence[float] = ()
) -> list[np.ndarray]:
    """Cut the same random square of images, mirrored half of the time and turned in steps of 90.

    Args:
      rng: source of randomness.
      images: uint8 [H, W, 3] each, of one size, at least `size` pixels a side.
      size: side of the square in pixels.
      share: (least, most) share of the photo's area: what is cut has that area and an aspect ratio
        of 3:4 to 4:3, and is resized to the square (stage one's recipe); () cuts the square itself.

    Returns:
      uint8 [size, size, 3] of each.
    """
    height, width = images[0].shape[:2]
    tall, wide = _random_extent(rng, height, width, share) if share else (size, size)
    top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    mirrored, turns = rng.random() < 0.5, rng.integers(4)
    crops = []
    for image in images:
        crop = image[top : top + tall, left : left + wide]
        if share:
            resized = Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC)
            crop = np.asarray(resized)
        crop = crop[:, ::-1] if mirrored else crop
        crops.append(np.ascontiguousarray(np.rot90(crop, turns)))
    return crops


def _random_extent(rng, height: int, width: int, share: Sequence[float]) -> tuple[int, int]:
    """Return the sides of a random part of a photo: area uniform, aspect ratio log-uniform."""
    area = rng.uniform(*share) * height * width
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    tall, wide = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
    return int(np.clip(tall, 1, height)), int(np.clip(wide, 1, width))


def training_batches(
    sources: Sequence[Any],
    *,
    seed: int,
    crop_size: int,
    batch_size: int,
    mixture: Mixture,
    source_weights: Sequence[float] = (),
    first_batch: int = 0,
    workers: int = 0,
    read_threads: int = 2,
    prefetch_mb: int = 64,
    process_index: int = 0,
    process_count: int = 1,
    **rendering: Any,
) -> grain.IterDataset:
    """Build the endless sequence of training batches of one process.

    Args:
      sources: of clean photos or of pairs; see `data.sources`.
      seed: decides order, crops and degradations.
      crop_size: side of the crops in pixels.
      batch_size: examples per batch over all processes.
      mixture: how clean photos are degraded.
      source_weights: how often each source comes; () for shares by their lengths.
      first_batch: where in the sequence to start; a run continues at the batches it has seen.
      workers: processes that make the batches; 0 makes them here.  Changes no result.
      read_threads, prefetch_mb: threads of each worker, and memory for batches made ahead, in MiB
        per worker; 16 batches at most.  Change no result.
      process_index, process_count: this process and how many there are.
      rendering: further fields of `MakeExample`.

    Returns:
      a grain dataset of {gt, lq: uint8 [b, crop, crop, 3], label: int32 [b] or float32 [b, K],
      severity: int32 [b, K], recipe_seed: int32 [b]}, b = batch_size / process_count.

    Raises:
      UserError: the batch cannot be divided among the processes, or a source's class is none of
        the degradations.
    """
    if batch_size % process_count:
        raise UserError(
            f"data.batch_size={batch_size} cannot be divided among {process_count} processes."
        )
    make = MakeExample(tuple(sources), seed, crop_size, mixture, **rendering)
    if mixture.clean_share and not make.multi_hot:
        raise UserError("data.clean_share: a clean example has no class; use multi-hot labels.")
    _check_classes(sources, mixture, make.multi_hot)
    dataset = _places(sources, source_weights, seed).map_with_index(make)
    local_batch = batch_size // process_count
    share = ProcessShare(dataset, local_batch, process_index, process_count, first_batch)
    batch_bytes = local_batch * 2 * 3 * crop_size**2
    ahead = max(1, min(_MOST_BATCHES_AHEAD, prefetch_mb * 2**20 // batch_bytes))
    options = grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=ahead)
    # Batched before workers come in: they deal out what they get, so whole batches, not examples.
    batches = grain.MapDataset.source(share).batch(local_batch, drop_remainder=True)
    batches = batches.to_iter_dataset(options)
    if workers:
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=worker_process.prepare,
        )
    return batches


def _places(sources, weights, seed) -> grain.MapDataset:
    """Return the endless sequence of (source, element), each source in a new order every epoch."""
    orders = []
    for number, source in enumerate(sources):
        order = grain.MapDataset.range(len(source)).seed(seed + number).shuffle().repeat()
        orders.append(order.map_with_index(OfSource(number)))
    if len(orders) == 1:
        return orders[0]
    shares = np.array(weights or [len(source) for source in sources], np.float64)
    return grain.MapDataset.mix(orders, weights=list(shares / shares.sum()))


def _check_classes(sources, mixture: Mixture, multi_hot: bool) -> None:
    for source in sources:
        classes = {name: degradations_of(name) for name in getattr(source, "classes", ())}
        mixed = [name for name, parts in classes.items() if len(parts) > 1]
        if mixed and not multi_hot:
            raise UserError(
                f"{source.root!r} has pairs of {', '.join(mixed)}: several degradations at once, "
                "which one label cannot name; set config.priors.classification='multi', or give "
                "these pairs the class 'other'."
            )
        unknown = [name for name, parts in classes.items() if not {*parts} <= {*mixture.names}]
        if unknown:
            raise UserError(
                f"{source.root!r} has pairs of {', '.join(unknown)}, which data.degradations "
                f"lacks: {', '.join(mixture.names)}. Rename the folders, or add there what is a "
                "degradation."
            )
