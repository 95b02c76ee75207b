"""Fixed test sets: every photo, degraded by every recipe at every severity, written once."""

import dataclasses
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from tpgdiff_jax.data.degradations.mix import Recipe, degrade, expand, parse
from tpgdiff_jax.data.images import centre_crop, write_image
from tpgdiff_jax.data.matching import candidates
from tpgdiff_jax.data.prepare import begun
from tpgdiff_jax.data.prepare.preview import contact_sheet
from tpgdiff_jax.data.records import write_records
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.data.tfds.writing import write_tfds
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.reporting.progress import Progress

_LONGEST_NAME = 255  # bytes of a file's name, on nearly all file systems
FORMATS = ("folder", "records", "tfds")

# A contact sheet shows so many photos, and so many columns in each of its bands.
_PREVIEW_PHOTOS = 2
_PREVIEW_COLUMNS = 12
_PREVIEW_CELL = 136  # pixels


@dataclasses.dataclass(frozen=True)
class Plan:
    """One kind of degradation in a test set.

    Attributes:
      steps: (name, severity) pairs, in the order in which they happen.
    """

    steps: tuple[tuple[str, float], ...]

    @property
    def class_name(self) -> str:
        """The names joined, e.g. `haze+rain`."""
        return "+".join(name for name, _ in self.steps)

    @property
    def tag(self) -> str:
        """The severities as they stand in file names: `s3`, `s2p5`, or `s2_4` where they differ."""
        severities = list(dict.fromkeys(f"{severity:g}" for _, severity in self.steps))
        if len(severities) > 1:
            severities = [f"{severity:g}" for _, severity in self.steps]
        return "s" + "_".join(severities).replace(".", "p")

    def recipe(self, seed: int, photo: str) -> Recipe:
        """Return the recipe of a photo; it depends on nothing but the photo's name and the plan."""
        key = f"{photo}/{self.class_name}/{self.tag}".encode("utf-8", "surrogateescape")
        own = np.random.default_rng([seed, zlib.crc32(key)]).integers(2**31)
        return Recipe(self.steps, int(own))


def plans(config: ConfigDict) -> list[Plan]:
    """Return what a configuration wants done to every photo, each once; reads `prepare`."""
    texts = expand(config.prepare.recipes or config.data.degradations)
    wanted = [
        Plan(parse(text, severity=float(severity)).steps)
        for text in texts
        for severity in config.prepare.severities
    ]
    return list(dict.fromkeys(wanted))


def examples(
    photos: PhotoFolder, config: ConfigDict, is_made: Callable[[str, str], bool] = lambda *_: False
) -> Iterator[dict[str, Any]]:
    """Make the pairs of a test set, one after the other.

    Args:
      photos: clean photos; unreadable ones are skipped and reported.
      config: a whole configuration; reads `prepare` and `data.degradations`.
      is_made: tells, by class and name, whether a photo need not be degraded again.

    Yields:
      {"name": photo's name without suffix and severity, "class": recipe's name, "label": its
      number, "gt", "lq": uint8 [H, W, 3] (LQ None where it is made), "recipe": JSON data}.
    """
    wanted = plans(config)
    classes = class_names(config)
    for index in range(len(photos)):
        photo = photos[index]
        if photo is None:
            continue
        gt = centre_crop(photo, config.prepare.crop_size)
        name = _plain_name(photos, index)
        for plan in wanted:
            recipe, own_name = plan.recipe(config.prepare.seed, name), f"{name}_{plan.tag}"
            yield {
                "name": own_name,
                "photo": name,
                "class": plan.class_name,
                "label": classes.index(plan.class_name),
                "gt": gt,
                "lq": None if is_made(plan.class_name, own_name) else degrade(gt, recipe),
                "recipe": recipe.to_json(),
            }


def _plain_name(photos: PhotoFolder, index: int) -> str:
    return os.path.splitext(photos.name(index))[0].replace(os.sep, "_")


def _check_names(photos: PhotoFolder, wanted: Sequence[Plan]) -> None:
    """Raise UserError where a degraded picture would be matched with another photo's truth."""
    first: dict[str, int] = {}
    for index in range(len(photos)):
        name = _plain_name(photos, index)
        if name in first:
            raise UserError(
                f"{photos.name(first[name])} and {photos.name(index)} would both be called "
                f"{name!r}; rename one of them."
            )
        first[name] = index
    for name, plan in itertools.product(first, wanted):
        made = f"{name}_{plan.tag}"
        truth = next((stem for stem in candidates(made) if stem in first), name)
        if truth != name:
            raise UserError(
                f"{photos.name(first[name])}, degraded, would be called {made!r} and be taken for "
                f"{photos.name(first[truth])}; rename one of them."
            )


def _check_lengths(photos: PhotoFolder, wanted: Sequence[Plan]) -> None:
    """Raise UserError where a file's name would be too long; a job must not end by it half-way."""
    tag = max((plan.tag for plan in wanted), key=len)
    for index in range(len(photos)):
        name = f"{_plain_name(photos, index)}_{tag}.png"
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise UserError(
                f"{photos.name(index)}, degraded, would be called {name!r}, and no file can have "
                "so long a name; shorten the names of its folders, or write "
                "--config.prepare.format=records."
            )


def class_names(config: ConfigDict) -> list[str]:
    """Return the names of a test set's recipes, in order; their numbers are the labels."""
    return list(dict.fromkeys(plan.class_name for plan in plans(config)))


def prepare(photos: PhotoFolder, config: ConfigDict, output: pathlib.Path) -> int:
    """Write a paired test set and its recipes.

    As `folder`: OUTPUT/CLASS/{LQ,GT}/NAME.png and OUTPUT/recipes.json.  As `records`:
    OUTPUT/pairs.array_record.  As `tfds`: what `tfds.data_source("restoration_pairs",
    split="test", data_dir=OUTPUT)` reads.  Recipes stand in records and TFDS features, too.

    A folder that was begun and not completed is gone on with; the other formats begin anew.

    Args:
      photos: clean photos.
      config: a whole configuration; reads `prepare` and `data.degradations`.
      output: an empty or a new folder, or one that was begun with the same photos and settings.

    Returns:
      the number of pairs.

    Raises:
      UserError: `output` holds other files already, a name would be taken for another one or is
        too long, or no photo can be read.
    """
    wanted, form, classes = plans(config), config.prepare.format, class_names(config)
    _check_names(photos, wanted)
    if form == "folder":
        _check_lengths(photos, wanted)
        chosen = {key: config.prepare[key] for key in ("crop_size", "seed")}
        begun.begin(output, photos, {**chosen, "recipes": [plan.steps for plan in wanted]})
    else:
        begun.check_empty(output)

    def is_made(class_name: str, name: str) -> bool:
        return form == "folder" and os.path.exists(output / _lq(class_name, name))

    made = _Counted(examples(photos, config, is_made), total=len(photos) * len(wanted))
    if form == "folder":
        _write_folder(made, output)
        begun.end(output)
    elif form == "records":
        write_records(output / "pairs.array_record", made, classes)
    else:
        write_tfds(output, "restoration_pairs", "test", made, classes=classes)
    return made.count


class _Counted:
    """Count what an iterator yields, and show how far it is."""

    def __init__(self, items: Iterator[Any], total: int):
        self._items, self._total = items, total
        self.count = 0

    def __iter__(self) -> Iterator[Any]:
        with Progress(self._total, "degrading", unit="pair", speaks=True) as progress:
            for item in self._items:
                self.count += 1
                yield item
                progress.advance()


def _lq(class_name: str, name: str) -> pathlib.Path:
    return pathlib.Path(class_name, "LQ", f"{name}.png")


def _write_folder(made: Iterable[dict[str, Any]], output: pathlib.Path) -> None:
    listed = []
    for example in made:
        lq = _lq(example["class"], example["name"])
        gt = pathlib.Path(example["class"], "GT", f"{example['photo']}.png")
        if example["lq"] is not None:
            write_image(output / lq, example["lq"])
        if not (output / gt).exists():
            write_image(output / gt, example["gt"])
        pair = {"lq": lq.as_posix(), "gt": gt.as_posix()}
        listed.append({**pair, "recipe": example["recipe"]})
    if not listed:
        raise UserError(f"{output}: there are no pairs to write; no photo can be read.")
    write_text(output / "recipes.json", json.dumps({"pairs": listed}, indent=1) + "\n")


def write_preview(photos: PhotoFolder, config: ConfigDict, path: pathlib.Path) -> None:
    """Write a contact sheet: photos in rows, recipes at rising severity in columns.

    Args:
      photos: clean photos; the first few that can be read are shown.
      config: a whole configuration; reads `prepare` and `data.degradations`.
      path: the picture; its ending chooses the format.

    Raises:
      UserError: a file is there already.
    """
    if path.exists():
        raise UserError(f"--output={path} exists already; choose another name.")
    shown = (photos[index] for index in range(len(photos)))
    usable = list(itertools.islice((p for p in shown if p is not None), _PREVIEW_PHOTOS))
    columns: list[tuple[str, list[tuple[str, float]]]] = [("clean", [])]
    for plan in plans(config):
        columns.append((f"{plan.class_name}\n{plan.tag}", list(plan.steps)))

    def degraded(image, steps, seed):
        return degrade(image, Recipe(tuple(steps), seed))

    bands = []
    for start in range(0, len(columns), _PREVIEW_COLUMNS):
        band = columns[start : start + _PREVIEW_COLUMNS]
        sheet = contact_sheet(usable, band, degraded, _PREVIEW_CELL)
        bands.append(sheet)
    width = max(band.shape[1] for band in bands)
    padded = [
        np.pad(b, ((0, 0), (0, width - b.shape[1]), (0, 0)), constant_values=255) for b in bands
    ]
    write_image(path, np.concatenate(padded))
