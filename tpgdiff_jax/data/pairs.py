"""Degraded photos and their ground truths, as files: folders of them are matched by name."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from tpgdiff_jax.data.folders import check_side, has_side, here, images_below
from tpgdiff_jax.data.images import cut_like, read_rgb
from tpgdiff_jax.data.labels import relabelled
from tpgdiff_jax.data.matching import alone_truths, match_files, sides_of, why_no_pair
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.data.pictures.kinds import EXTENSIONS
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.data.sources import Source, scan_sizes, too_small
from tpgdiff_jax.reporting.errors import UserError

_RENAME = "rename its folder, or name that folder alone: pairs:FOLDER?class_name=NAME"
_CUT = "; centre_crop=yes cuts larger truths to size"


class FilePairs(Source):
    """Pairs of image files: `source[i]` is {"lq", "gt": uint8 [H, W, 3], "label": int}.

    Headers are read once at the start; files that cannot be read and pairs of two sizes are
    reported then.

    Attributes:
      folder: where the files are, as far as their paths do not say.
      pairs: (LQ path, GT path, label) of the usable pairs, relative to the folder.
    """

    unit = "pairs"
    folder: pathlib.Path
    pairs: list[tuple[str, str, int]]
    _centre_crop: bool  # of a ground truth that is larger, its centre is the truth

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Return the degraded image's path relative to the folder."""
        return self.pairs[index][0]

    def _file(self, index: int) -> str:
        return os.path.join(self.folder, self.name(index))

    def _read(self, index: int) -> dict[str, Any]:
        lq_name, gt_name, label = self.pairs[index]
        lq, gt = read_rgb(self.folder / lq_name), read_rgb(self.folder / gt_name)
        if self._centre_crop:
            gt = cut_like(gt, lq.shape[:2])
        if lq.shape != gt.shape:
            raise UnreadableImageError(
                self.folder / lq_name, _sizes_differ(lq.shape[:2], gt.shape[:2], gt_name)
            )
        return {"lq": lq, "gt": gt, "label": label}

    def _add_usable(self, pairs: Sequence[tuple[str, str]], label: int) -> None:
        """Add the usable ones of some pairs (LQ path, GT path), and report the others."""
        truths = list(dict.fromkeys(gt for _, gt in pairs))
        sizes = scan_sizes([self.folder / name for name in truths])
        gt_sizes = dict(zip(truths, sizes, strict=True))
        for name, size in gt_sizes.items():
            if isinstance(size, str):
                self._skip(self.folder / name, size)
        lq_sizes = scan_sizes([self.folder / name for name, _ in pairs])
        for (lq, gt), size in zip(pairs, lq_sizes, strict=True):
            reason = self._unusable(size, gt_sizes[gt], gt)
            if reason:
                self._skip(self.folder / lq, reason)
            else:
                self.pairs.append((lq, gt, label))

    def _unusable(
        self, lq_size: tuple[int, int] | str, gt_size: tuple[int, int] | str, gt_name: str
    ) -> str | None:
        """Return why a pair of such sizes (or reasons) cannot be used, or None."""
        if isinstance(lq_size, str):
            return lq_size
        if isinstance(gt_size, str):
            return f"its ground truth {gt_name} cannot be used"
        is_larger = gt_size[0] >= lq_size[0] and gt_size[1] >= lq_size[1]
        if lq_size != gt_size and not (self._centre_crop and is_larger):
            return _sizes_differ(lq_size, gt_size, gt_name)
        return too_small(lq_size, self._min_size)

    def _require_some(self, why_none: str) -> None:
        """Raise UserError where no pair is usable.

        Args:
          why_none: what to say where no file is to blame.
        """
        if self.pairs:
            return
        bad = self.report.items(self.root)
        why = self.report.describe(bad) if bad else why_none
        mend = _CUT if "but its ground truth" in why and not self._centre_crop else ""
        raise UserError(f"{self.root!r} holds no usable pair: {why}{mend}")


class PairFolder(FilePairs):
    """Pairs below ROOT/CLASS/{LQ,GT}, the released program's layout, or ROOT/{LQ,GT}.

    Instead of LQ and GT the two folders may have the names of published sets (low and high, blur
    and sharp, hazy and gt ...), or any that are given.  Ambiguous files and degraded images without
    a truth are reported, too; truths without a degraded image are told by `summary` alone.

    Attributes:
      classes: names of the classes, in the order of their labels.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        min_size: int = 1,
        cache_mb: int = 0,
        report: SkipReport | None = None,
        classes: Sequence[str] | None = None,
        class_name: str | None = None,
        lq: str | None = None,
        gt: str | None = None,
        gt_rename: tuple[str, str] | None = None,
        centre_crop: bool = False,
    ):
        """Scan a folder.

        Args:
          root: folder with LQ and GT, or with one folder per class that holds them.
          min_size: smallest usable height and width in pixels.
          cache_mb: decoded images kept in memory, in MiB.
          report: where bad files are listed; None starts a new list.
          classes: fixes the labels' order; every class found must be named.  None: those found,
            sorted.
          class_name: class of the pairs in ROOT/{LQ,GT}, and of no others; None: the root's own
            name.
          lq, gt: names of the two folders, such as "blur" and "sharp"; `*` stands for any folder,
            as in "*/blur", and "" for the folder itself; see `folders.images_below`.  None: found
            by themselves.
          gt_rename: see `match_names`.
          centre_crop: of a ground truth that is larger, its centre is the truth.

        Raises:
          UserError: no such folder, another layout, an unknown class, or no usable pair.
        """
        self.folder = here(root)
        super().__init__(self.folder, min_size, cache_mb, report)
        self._sides = (lq, gt)
        self._gt_rename, self._centre_crop = gt_rename, centre_crop
        if (lq is None) != (gt is None):
            raise UserError(f"Folder of pairs {self.root!r}: lq and gt go together; give both.")
        if lq is not None and lq == gt:
            raise UserError(f"Folder of pairs {self.root!r}: lq={lq!r} is gt, too; name two.")
        for key, side in (("lq", lq), ("gt", gt)):
            check_side(side or "", f"Folder of pairs {self.root!r}: {key}")
        folders = self._class_folders(class_name)
        names = sorted(folders)
        remedy = _RENAME
        if self.folder not in folders.values():
            of_one_class = f"give all of them one class: {self._as_one_class(folders[names[0]])}"
            if class_name:
                raise UserError(
                    f"{self.root!r} names its own classes, {', '.join(names)}; leave out "
                    f"class_name={class_name!r}, or {of_one_class}{class_name}"
                )
            remedy = f"{_RENAME}, or {of_one_class}NAME"
        self.classes, labels = relabelled(names, classes, self.root, remedy=remedy)
        self.pairs = []
        self._alone: list[str] = []  # truths without a degraded image
        self._why_none = ""
        for number, name in enumerate(names):
            self._scan(folders[name], labels[number])
        if self._why_none and not self.pairs:
            raise UserError(f"{self.root!r} holds no usable pair: {self._why_none}")
        self._require_some(f"no image files ({', '.join(EXTENSIONS)})")

    def summary(self) -> str:
        """Say what `Source.summary` does, and which truths have no degraded image."""
        return "; ".join([super().summary(), *([alone_truths(self._alone)] if self._alone else [])])

    def _class_folders(self, class_name: str | None) -> dict[str, pathlib.Path]:
        """Return class -> the folder that holds its LQ and GT."""
        if not self.folder.is_dir():
            raise UserError(f"Folder of pairs {self.root!r} does not exist or is no folder.")
        if self._holds_pairs(self.folder):
            return {class_name or self.folder.resolve().name: self.folder}
        below = sorted(
            p for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith(".")
        )
        folders = {path.name: path for path in below if self._holds_pairs(path)}
        for path in below:
            if path.name not in folders:
                self.found += 1
                self._skip(path, "a folder without LQ and GT")
        if not folders:
            listing = ", ".join(sorted(p.name for p in self.folder.iterdir())[:10]) or "nothing"
            lq, gt = ("LQ", "GT") if self._sides[0] is None else self._sides
            raise UserError(
                f"Folder of pairs {self.root!r} holds neither {lq} and {gt} nor CLASS/{lq} and "
                f"CLASS/{gt}, but {listing}; arrange the images like this, or say which folders "
                "are meant: pairs:PATH?lq=FOLDER&gt=FOLDER."
            )
        return folders

    def _as_one_class(self, folder: pathlib.Path) -> str:
        """Return the source whose classes are no classes (scenes, say), up to the class's name."""
        sides = sides_of(folder) if self._sides[0] is None else self._sides
        lq, gt = ("|".join(f"*/{choice}" for choice in side.split("|")) for side in sides)
        return f"pairs:{self.root}?lq={lq}&gt={gt}&class_name="

    def _holds_pairs(self, folder: pathlib.Path) -> bool:
        if self._sides[0] is None:
            return sides_of(folder) is not None
        return all(has_side(folder, side) for side in self._sides)

    def _scan(self, folder: pathlib.Path, label: int) -> None:
        """Add the usable pairs of one class."""
        sides = sides_of(folder) if self._sides[0] is None else self._sides
        lq_files, gt_files = (images_below(folder, side) for side in sides)
        pairs, unusable, alone = match_files(lq_files, gt_files, self._gt_rename)
        self.found += len(lq_files) + len(gt_files) - len(alone)
        self._alone += [self._relative(gt_files[name]) for name in alone]
        if not pairs:
            self._why_none = why_no_pair(list(lq_files), list(gt_files), self._gt_rename)
        for path, reason in unusable.items():
            self._skip(path, reason)
        files = ((lq_files[lq], gt_files[gt]) for lq, gt in pairs)
        self._add_usable([(self._relative(lq), self._relative(gt)) for lq, gt in files], label)

    def _relative(self, path: pathlib.Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _sizes_differ(lq_size: Sequence[int], gt_size: Sequence[int], gt_name: str) -> str:
    return f"{lq_size[1]}x{lq_size[0]}, but its ground truth {gt_name} is {gt_size[1]}x{gt_size[0]}"
