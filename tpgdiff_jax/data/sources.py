"""Where clean photos come from: a folder tree of image files."""

import collections
import os
import pathlib
import threading

import numpy as np
from absl import logging

from tpgdiff_jax.data.images import EXTENSIONS, UnreadableImageError, read_rgb, read_size


class PhotoFolder:
    """Random access to the photos below a folder, sorted by path; bad files are skipped.

    Headers are read once at the start; files that are no images, or smaller than `min_size`, are
    left out then.  A file that fails only when it is decoded (a truncated JPEG) gives None, which
    grain drops.  Either way it is listed in `skipped`, and logged once.

    Attributes:
      paths: the usable files.
      skipped: path -> why it is not used.
    """

    def __init__(self, folder: str | os.PathLike, min_size: int = 1, cache_mb: int = 0):
        """Scan a folder.

        Args:
          folder: where the photos are; sub-folders included.
          min_size: smallest usable height and width in pixels.
          cache_mb: decoded photos kept in memory, in MiB.

        Raises:
          ValueError: no such folder, or no usable photo in it; says what was found instead.
        """
        self.folder = pathlib.Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"Photo folder {str(folder)!r} does not exist or is no folder.")
        self.skipped: dict[pathlib.Path, str] = {}
        self.paths: list[pathlib.Path] = []
        self._lock = threading.Lock()
        self._cache: dict[int, np.ndarray] = {}
        self._cache_bytes = cache_mb << 20
        found = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
        for path in found:
            reason = _unusable(path, min_size)
            if reason:
                self._skip(path, reason)
            else:
                self.paths.append(path)
        if not self.paths:
            raise ValueError(self._nothing_usable(len(found)))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray | None:
        """Return photo `index` as uint8 [H, W, 3], or None when it cannot be decoded."""
        photo = self._cache.get(index)
        if photo is not None:
            return photo
        path = self.paths[index]
        try:
            photo = read_rgb(path)
        except UnreadableImageError as error:
            self._skip(path, str(error).removeprefix(f"{path}: "))
            return None
        with self._lock:
            if photo.nbytes <= self._cache_bytes and index not in self._cache:
                self._cache[index] = photo
                self._cache_bytes -= photo.nbytes
        return photo

    def __repr__(self) -> str:  # grain stores this with the iterator's state
        return f"PhotoFolder({len(self)} photos)"

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_cache")}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock(), _cache={})

    def summary(self) -> str:
        """Say in one line how many photos are used, how many were skipped, and why."""
        unusable = len(self.skipped)
        if not unusable:
            return f"{len(self)} photos in {self.folder}"
        used = len(self.paths) - sum(path in self.skipped for path in self.paths)
        reasons = collections.Counter(self.skipped.values())
        why = ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(5))
        names = ", ".join(str(p.relative_to(self.folder)) for p in list(self.skipped)[:5])
        more = f" and {unusable - 5} more" if unusable > 5 else ""
        return f"{used} photos in {self.folder}; skipped {unusable} ({why}): {names}{more}"

    def _skip(self, path: pathlib.Path, reason: str) -> None:
        with self._lock:
            known = path in self.skipped
            self.skipped[path] = reason
            all_bad = bool(self.paths) and all(p in self.skipped for p in self.paths)
        if not known:
            logging.warning("Skipping %s: %s", path, reason)
        if all_bad:
            raise ValueError(self._nothing_usable(len(self.skipped)))

    def _nothing_usable(self, found: int) -> str:
        if not found:
            return (
                f"Photo folder {str(self.folder)!r} holds no image files "
                f"({', '.join(EXTENSIONS)}); put photos there or name another folder."
            )
        listing = "; ".join(f"{path.name}: {reason}" for path, reason in self.skipped.items())
        return f"None of the {found} image files in {str(self.folder)!r} is usable: {listing}"


def _unusable(path: pathlib.Path, min_size: int) -> str | None:
    """Return why a file cannot be used, judging by its header alone; None if it seems fine."""
    try:
        height, width = read_size(path)
    except UnreadableImageError as error:
        return str(error).removeprefix(f"{path}: ")
    if min(height, width) < min_size:
        return f"{width}x{height} is smaller than the crop of {min_size} pixels"
    return None
