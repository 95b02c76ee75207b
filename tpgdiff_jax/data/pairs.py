"""Folders of degraded photos and their ground truths, matched by name."""

import collections
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tpgdiff_jax.data.folders import home
from tpgdiff_jax.data.images import EXTENSIONS, UnreadableImageError, read_rgb
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.data.sources import Source, image_names, relabelled, scan_sizes, too_small
from tpgdiff_jax.reporting.errors import UserError

# One trailing group: an underscore and a number (`_3`, `_0.85`) or a word (`_rain`, `_x4`).
_GROUP = re.compile(r"_[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*$")


def match_names(
    lq_names: Iterable[str], gt_names: Iterable[str]
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Match degraded images with their ground truths by name, never by position.

    A pair has the same stem, whatever the suffix.  Otherwise the degraded image's stem loses its
    trailing `_<number or word>` groups, one at a time, until a truth has that stem: `1400_3.png`
    and `1400_0.8_0.2.jpg` belong to `1400.png`.  One truth may serve several degraded images.
    Two files of one stem in one folder are ambiguous; neither is used.

    Args:
      lq_names: names of the degraded images, relative to their folder.
      gt_names: names of the ground truths, relative to theirs; sub-folders must agree.

    Returns:
      pairs (lq, gt), sorted; and "LQ/name" or "GT/name" -> why it is in no pair.
    """
    lq_stems, gt_stems = _by_stem(lq_names), _by_stem(gt_names)
    pairs: list[tuple[str, str]] = []
    unmatched: dict[str, str] = {}
    for side, stems in (("LQ", lq_stems), ("GT", gt_stems)):
        for names in stems.values():
            for name in names if len(names) > 1 else ():
                others = ", ".join(other for other in names if other != name)
                unmatched[f"{side}/{name}"] = f"ambiguous: {others} has the same stem"
    for stem, names in lq_stems.items():
        if len(names) > 1:
            continue
        truth = next((gt_stems[s] for s in _candidates(stem) if s in gt_stems), None)
        if truth is None:
            unmatched[f"LQ/{names[0]}"] = "no ground truth has its name"
        elif len(truth) > 1:
            unmatched[f"LQ/{names[0]}"] = f"ambiguous: may belong to {' or '.join(truth)}"
        else:
            pairs.append((names[0], truth[0]))
    used = {gt for _, gt in pairs}
    for names in gt_stems.values():
        if len(names) == 1 and names[0] not in used:
            unmatched[f"GT/{names[0]}"] = "no degraded image has its name"
    return sorted(pairs), dict(sorted(unmatched.items()))


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    stems = collections.defaultdict(list)
    for name in sorted(set(names)):
        stems[os.path.splitext(name)[0]].append(name)
    return dict(stems)


def _candidates(stem: str) -> Iterable[str]:
    """Yield a stem, then what remains of it as trailing groups are removed."""
    yield stem
    while match := _GROUP.search(stem):
        stem = stem[: match.start()]
        if not stem or stem.endswith("/"):
            return
        yield stem


class PairFolder(Source):
    """Pairs below ROOT/CLASS/{LQ,GT}, the released program's layout, or ROOT/{LQ,GT}.

    Headers are read once at the start; unmatched, ambiguous, unreadable and differently sized files
    are reported then.  `source[i]` is {"lq", "gt": uint8 [H, W, 3], "label": int}.

    Attributes:
      classes: names of the classes, in the order of their labels.
      pairs: (LQ path, GT path, label) of the usable pairs, relative to the root.
    """

    unit = "pairs"

    def __init__(
        self,
        root: str | os.PathLike,
        min_size: int = 1,
        cache_mb: int = 0,
        report: SkipReport | None = None,
        classes: Sequence[str] | None = None,
        class_name: str | None = None,
    ):
        """Scan a folder.

        Args:
          root: folder with LQ and GT, or with one folder per class that holds them.
          min_size: smallest usable height and width in pixels.
          cache_mb: decoded images kept in memory, in MiB.
          report: where bad files are listed; None starts a new list.
          classes: fixes the labels' order; every class found must be named.  None: those found,
            sorted.
          class_name: class of the pairs in ROOT/{LQ,GT}; None: the root's own name.

        Raises:
          UserError: no such folder, another layout, an unknown class, or no usable pair.
        """
        self._root = home(root)
        super().__init__(self._root, min_size, cache_mb, report)
        folders = self._class_folders(class_name)
        names = sorted(folders)
        self.classes, labels = relabelled(names, classes, self.root)
        self.pairs: list[tuple[str, str, int]] = []
        for number, name in enumerate(names):
            self._scan(folders[name], labels[number])
        if not self.pairs:
            bad = self.report.items(self.root)
            why = self.report.describe(bad) if bad else f"no image files ({', '.join(EXTENSIONS)})"
            raise UserError(f"{self.root!r} holds no usable pair: {why}")

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Return the degraded image's path relative to the root."""
        return self.pairs[index][0]

    def _read(self, index: int) -> dict[str, Any]:
        lq_name, gt_name, label = self.pairs[index]
        lq, gt = read_rgb(self._root / lq_name), read_rgb(self._root / gt_name)
        if lq.shape != gt.shape:
            raise UnreadableImageError(
                self._root / lq_name, _sizes_differ(lq.shape[:2], gt.shape[:2], gt_name)
            )
        return {"lq": lq, "gt": gt, "label": label}

    def _class_folders(self, class_name: str | None) -> dict[str, pathlib.Path]:
        """Return class -> the folder that holds its LQ and GT."""
        if not self._root.is_dir():
            raise UserError(f"Folder of pairs {self.root!r} does not exist or is no folder.")
        if _holds_pairs(self._root):
            return {class_name or self._root.resolve().name: self._root}
        below = sorted(p for p in self._root.iterdir() if p.is_dir() and not p.name.startswith("."))
        folders = {path.name: path for path in below if _holds_pairs(path)}
        for path in below:
            if path.name not in folders:
                self.found += 1
                self._skip(path, "a folder without LQ and GT")
        if not folders:
            listing = ", ".join(sorted(p.name for p in self._root.iterdir())[:10]) or "nothing"
            raise UserError(
                f"Folder of pairs {self.root!r} holds neither LQ and GT nor CLASS/LQ and CLASS/GT, "
                f"but {listing}; arrange the images like this."
            )
        return folders

    def _scan(self, folder: pathlib.Path, label: int) -> None:
        """Add the usable pairs of one class."""
        lq_names, gt_names = image_names(folder / "LQ"), image_names(folder / "GT")
        self.found += len(lq_names) + len(gt_names)
        pairs, unmatched = match_names(lq_names, gt_names)
        for name, reason in unmatched.items():
            self._skip(folder / name, reason)
        lq_paths = [folder / "LQ" / lq for lq, _ in pairs]
        gt_paths = [folder / "GT" / gt for _, gt in pairs]
        truths = list(dict.fromkeys(gt_paths))
        gt_sizes = dict(zip(truths, scan_sizes(truths), strict=True))
        for path, size in gt_sizes.items():
            if isinstance(size, str):
                self._skip(path, size)
        for lq, gt, size in zip(lq_paths, gt_paths, scan_sizes(lq_paths), strict=True):
            gt_name = gt.relative_to(self._root).as_posix()
            reason = self._unusable(size, gt_sizes[gt], gt_name)
            if reason:
                self._skip(lq, reason)
            else:
                self.pairs.append((lq.relative_to(self._root).as_posix(), gt_name, label))

    def _unusable(
        self, lq_size: tuple[int, int] | str, gt_size: tuple[int, int] | str, gt_name: str
    ) -> str | None:
        """Return why a pair of such sizes (or reasons) cannot be used, or None."""
        if isinstance(lq_size, str):
            return lq_size
        if isinstance(gt_size, str):
            return f"its ground truth {gt_name} cannot be used"
        if lq_size != gt_size:
            return _sizes_differ(lq_size, gt_size, gt_name)
        return too_small(lq_size, self._min_size)


def _holds_pairs(folder: pathlib.Path) -> bool:
    return (folder / "LQ").is_dir() and (folder / "GT").is_dir()


def _sizes_differ(lq_size: Sequence[int], gt_size: Sequence[int], gt_name: str) -> str:
    return f"{lq_size[1]}x{lq_size[0]}, but its ground truth {gt_name} is {gt_size[1]}x{gt_size[0]}"
