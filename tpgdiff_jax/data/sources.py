"""Where images come from: what all sources share, and the folder tree of clean photos.

`open_source.py` opens any of them from a configuration entry.
"""

import abc
import functools
import hashlib
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tpgdiff_jax.data.folders import here, list_images
from tpgdiff_jax.data.images import read_rgb
from tpgdiff_jax.data.pictures.door import read_size
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.data.pictures.kinds import EXTENSIONS
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.progress import Progress

_NEEDED_BY = "data.crop_size or scores need"
_END_BYTES = 2**16  # of a large file, at each end
_SCAN_THREADS = 8  # headers are read in parallel: on network drives each waits
_TOGETHER = 4096  # headers asked for at once: what waits takes 2 KB of memory each
_MANY = 20_000  # headers take so long that a reader wants to know how far they are


class Source(abc.ABC):
    """Random access to the images of one data set; bad ones are reported, never raised.

    `source[i]` is uint8 [H, W, 3] of a clean photo, or {"lq", "gt": uint8 [H, W, 3], "label": int}
    of a pair; None where the files cannot be used, which grain drops.  Sources can be pickled:
    copies in worker processes open the files anew and share the report if it has a path.

    Attributes:
      root: the folder or data set, as errors name it.
      report: where bad files are listed.
      found: files (records) looked at, bad ones included; to compare the report's length with.
      classes: names of the labels; () for clean photos.
    """

    unit = "photos"
    classes: tuple[str, ...] = ()

    def __init__(
        self, root: str | os.PathLike, min_size: int, cache_mb: int, report: SkipReport | None
    ):
        """Start without elements.

        Args:
          root: what errors and the report call the source.
          min_size: smallest usable height and width in pixels.
          cache_mb: decoded images kept in memory, in MiB.
          report: where bad files are listed; None starts a new list.
        """
        self.root = str(root)
        self.report = SkipReport() if report is None else report
        self.found = 0
        self._min_size = min_size
        self._labels: dict[int, int] = {}  # label as stored -> label of the run
        self._bad: set[int] = set()  # elements that failed when they were read
        self._cache: dict[int, Any] = {}
        self._cache_bytes = cache_mb << 20
        self._free_bytes = self._cache_bytes  # of the cache, still to be filled
        self._lock = threading.Lock()

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Return an element's name: relative to the root, the same on every machine."""

    def identity(self) -> Iterator[str]:
        """Yield lines that tell these elements from others, the same wherever they lie.

        A run asks for them at every start, so no element is read for them: a folder's are its
        names, those of record files are the files, see `file_identity`, and numbers of records.
        """
        return map(self.name, range(len(self)))

    @abc.abstractmethod
    def _read(self, index: int) -> Any:
        """Read an element, or raise UnreadableImageError."""

    def __getitem__(self, index: int) -> Any:
        """Return element `index`, or None when it cannot be used (it is reported then).

        Raises:
          IndexError: no such element.
          UserError: not one element of the source can be used.
        """
        index = range(len(self))[index]
        if index in self._bad:
            return None
        element = self._cache.get(index)
        if element is None:
            try:
                element = self._read(index)
                self._check_size(index, element)
            except UnreadableImageError as error:
                self._give_up(index, error)
                return None
            self._remember(index, element)
        return element

    def __repr__(self) -> str:  # grain stores this with the iterator's state
        return f"{type(self).__name__}({len(self)} {self.unit}, {self._fingerprint})"

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_cache")}

    def __setstate__(self, state):
        # The copy's cache is empty, and may become as large as this one's was allowed to.
        fresh = {"_lock": threading.Lock(), "_cache": {}, "_free_bytes": state["_cache_bytes"]}
        self.__dict__.update(state, **fresh, _bad=set(state["_bad"]))

    def summary(self) -> str:
        """Say in one line how many elements are used, how many files were skipped, and why."""
        bad = self.report.items(self.root)
        skipped = f"; skipped {len(bad)}: {self.report.describe(bad)}" if bad else ""
        return f"{len(self) - len(self._bad)} {self.unit} in {self.root}{skipped}"

    def _file(self, index: int) -> str:
        """Return what the report calls an element."""
        return os.path.join(self.root, self.name(index))

    def _skip(self, file: str | os.PathLike, reason: str) -> None:
        self.report.add(file, reason, self.root)

    @functools.cached_property
    def _fingerprint(self) -> str:
        """Return what tells the elements from others; no absolute path, so folders may move."""
        return hashlib.sha1(
            "\n".join(self.identity()).encode("utf-8", "surrogateescape")
        ).hexdigest()[:8]

    def _pair(self, index: int, lq: np.ndarray, gt: np.ndarray, stored_label: int) -> Any:
        """Return a pair as an element, its label as the run numbers it; see `relabelled`."""
        if lq.shape != gt.shape:
            raise UnreadableImageError(self._file(index), "LQ and GT differ in size")
        if self._labels and stored_label not in self._labels:
            reason = f"damaged record: label {stored_label} of {len(self._labels)} classes"
            raise UnreadableImageError(self._file(index), reason)
        return {"lq": lq, "gt": gt, "label": self._labels.get(stored_label, stored_label)}

    def _check_size(self, index: int, element: Any) -> None:
        image = element["gt"] if isinstance(element, dict) else element
        reason = too_small(image.shape[:2], self._min_size)
        if reason:
            raise UnreadableImageError(self._file(index), reason)

    def _give_up(self, index: int, error: UnreadableImageError) -> None:
        self._skip(error.file, error.reason)
        with self._lock:
            self._bad.add(index)
            if len(self._bad) == len(self):  # grain would look for a good one for ever
                raise UserError(
                    f"None of the {len(self)} {self.unit} in {self.root!r} is usable: "
                    f"{self.report.describe(self.report.items(self.root))}"
                )

    def _remember(self, index: int, element: Any) -> None:
        images = [element] if isinstance(element, np.ndarray) else [element["lq"], element["gt"]]
        size = sum(image.nbytes for image in images)
        with self._lock:
            if size <= self._free_bytes and index not in self._cache:
                for image in images:
                    image.setflags(write=False)
                self._cache[index] = element
                self._free_bytes -= size


class PhotoFolder(Source):
    """The photos below a folder, sorted by name.

    Headers are read once at the start; files that are no images, or too small, are left out then.
    A file that fails only when it is decoded (a truncated JPEG) gives None.

    Attributes:
      folder: where they are.
      names: of the usable files, relative to the folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        min_size: int = 1,
        cache_mb: int = 0,
        report: SkipReport | None = None,
    ):
        """Scan a folder.

        Args:
          folder: where the photos are; sub-folders included.
          min_size: smallest usable height and width in pixels.
          cache_mb: decoded photos kept in memory, in MiB.
          report: where bad files are listed; None starts a new list.

        Raises:
          UserError: no such folder, or no usable photo in it; says what was found instead.
        """
        self.folder = here(folder)
        super().__init__(self.folder, min_size, cache_mb, report)
        if not self.folder.is_dir():
            raise UserError(f"Photo folder {self.root!r} does not exist or is no folder.")
        listing = list_images(self.folder)
        self.found = len(listing.names) + len(listing.troubles)
        for name, reason in listing.troubles.items():
            self._skip(self.folder / name, reason)
        if not listing.names:
            besides = f" but {listing.left_out()}" if listing.left_out() else ""
            raise UserError(
                f"Photo folder {self.root!r} holds no image files ({', '.join(EXTENSIONS)})"
                f"{besides}; put photos there or name another folder."
            )
        self.names: list[str] = []
        sizes = scan_sizes([self.folder / name for name in listing.names])
        for name, size in zip(listing.names, sizes, strict=True):
            reason = size if isinstance(size, str) else too_small(size, min_size)
            if reason:
                self._skip(self.folder / name, reason)
            else:
                self.names.append(name)
        if not self.names:
            raise UserError(
                f"None of the {len(listing.names)} image files in {self.root!r} is usable: "
                f"{self.report.describe(self.report.items(self.root))}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Return a photo's path relative to the folder."""
        return self.names[index]

    def _read(self, index: int) -> np.ndarray:
        return read_rgb(self.folder / self.names[index])


def file_identity(path: str | os.PathLike) -> str:
    """Return a large file's name, size and a digest of its two ends; the rest is not read."""
    size = os.path.getsize(path)
    digest = hashlib.sha1()
    with open(path, "rb") as file:
        digest.update(file.read(_END_BYTES))
        file.seek(max(0, size - _END_BYTES))
        digest.update(file.read(_END_BYTES))
    return f"{os.path.basename(path)} {size} {digest.hexdigest()}"


def scan_sizes(paths: Sequence[pathlib.Path]) -> list[tuple[int, int] | str]:
    """Read (height, width) from each file's header, or the reason why it cannot be used."""

    def scan(path: pathlib.Path) -> tuple[int, int] | str:
        try:
            return read_size(path)
        except UnreadableImageError as error:
            return error.reason

    found: list[tuple[int, int] | str] = []
    with (
        Progress(len(paths), "reading headers", unit="file", speaks=len(paths) >= _MANY) as bar,
        ThreadPoolExecutor(_SCAN_THREADS) as pool,
    ):
        for start in range(0, len(paths), _TOGETHER):
            found += pool.map(scan, paths[start : start + _TOGETHER])
            bar.advance(len(found) - start)
    return found


def too_small(size: tuple[int, int], min_size: int) -> str | None:
    """Return why an image of (height, width) cannot be used, or None."""
    height, width = size
    if min(height, width) < min_size:
        return f"{width}x{height} is smaller than the {min_size} pixels that {_NEEDED_BY}"
    return None
