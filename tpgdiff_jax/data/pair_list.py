"""Pairs that a text file names: two paths a line."""

import os
import pathlib
from collections.abc import Iterator, Sequence

from tpgdiff_jax.data.folders import home
from tpgdiff_jax.data.labels import relabelled
from tpgdiff_jax.data.pairs import FilePairs
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.urls import is_url

_EXPECTED = "two paths, that of the degraded image and that of its ground truth"


class PairList(FilePairs):
    """The pairs that a text file names: on each line the degraded image, then its ground truth.

    A tab parts the two; where there is none a comma, and where there is none of these a space.
    Paths are relative to the list's folder, or absolute.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        min_size: int = 1,
        cache_mb: int = 0,
        report: SkipReport | None = None,
        classes: Sequence[str] | None = None,
        class_name: str | None = None,
        centre_crop: bool = False,
    ):
        """Read a list, and the headers of what it names.

        Args:
          path: of the list, UTF-8.
          min_size: smallest usable height and width in pixels.
          cache_mb: decoded images kept in memory, in MiB.
          report: where bad files are listed; None starts a new list.
          classes: fixes the labels' order; the list's class must be named.
          class_name: class of all pairs; None: the list's own name, without its ending.
          centre_crop: of a ground truth that is larger, its centre is the truth.

        Raises:
          UserError: a line that names no two paths, an unknown class, or no usable pair.
        """
        path = home(path)
        super().__init__(path, min_size, cache_mb, report)
        self.folder, self.pairs, self._centre_crop = path.parent, [], centre_crop
        names = [class_name or path.stem]
        remedy = f"say what degraded its pairs: pairs:{path}?class_name=NAME"
        self.classes, labels = relabelled(names, classes, self.root, remedy=remedy)
        named = _read(path)
        self.found = len({name for pair in named for name in pair})
        self._add_usable(named, labels[0])
        self._require_some("the list is empty")

    def identity(self) -> Iterator[str]:
        """Yield the paths of each pair as the list writes them."""
        return (f"{lq}\t{gt}" for lq, gt, _ in self.pairs)


def _read(path: pathlib.Path) -> list[tuple[str, str]]:
    # Names of files need not be text; a mark of Windows' editors at the start is no part of one.
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    lines = enumerate(map(str.strip, text.split("\n")), 1)
    return [_paths(line, f"{path}, line {number}") for number, line in lines if line]


def _paths(line: str, where: str) -> tuple[str, str]:
    mark = next((mark for mark in "\t," if mark in line), None)
    paths = [part.strip() for part in line.split(mark)]
    if len(paths) != 2 or not all(paths):
        raise UserError(
            f"{where}: {line[:100]!r}: expected {_EXPECTED}, and between them a tab (or, where no "
            "path has any, a comma or a space)."
        )
    for each in paths:
        if is_url(each):
            raise UserError(f"{where}: {each}: a list names files of this machine; copy it.")
    return paths[0], paths[1]
