"""The worst and best images of each set, small enough to travel inside a page."""

import base64
import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from absl import logging
from PIL import Image

from tpgdiff_jax.benchmark.rows import Row
from tpgdiff_jax.benchmark.sets import Item, OpenSet
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.reporting.files import printable

_EACH = 2  # so many worst and so many best images of a set
_SIDE = 360  # pixels, at most
_QUALITY = 85


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image before and after, as data URIs.

    Attributes:
      row: its scores.
      rank: "worst" or "best"; "one" of images without a PSNR.
      lq, restored, gt: JPEG data URIs; gt is "" where there is no truth.
      width, height: in the page, pixels.
    """

    row: Row
    rank: str
    lq: str
    restored: str
    gt: str
    width: int
    height: int


def chosen_pictures(
    rows: Sequence[Row],
    sets: Sequence[OpenSet],
    variant: str,
    restored: Callable[[str, Item], np.ndarray | None],
    seed: int,
) -> list[Picture]:
    """Choose, of every set, the images with the worst and best PSNR in the first variant.

    Where none has a PSNR, the first by name are shown.

    Args:
      rows: of the job.
      sets: those that were scored.
      variant: name of the first variant.
      restored: (variant, item) -> the restored image uint8 [H, W, 3], or None if not kept.
      seed: of the job; degraded images are made again.
    """
    items = {(item.spec.name, item.name): item for opened in sets for item in opened.items}
    good = [row for row in rows if "error" not in row]
    groups: dict[str, list[Row]] = {}
    for row in good:
        if row["variant"] == variant:
            groups.setdefault(row["set"], []).append(row)
    found = []
    for group in groups.values():
        for rank, row in _ranked(group):
            item = items[row["set"], row["image"]]
            try:
                output = restored(row["variant"], item)
                if output is not None:
                    found.append(_picture(row, rank, item, output, seed))
            except (UnreadableImageError, OSError) as error:  # must not cost the report
                logging.warning("%s is not shown: %s", printable(item.name), error)
    return found


def _ranked(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Return (rank, row) of the images of a set that are shown."""
    ranked = sorted(rows, key=lambda row: (float(row.get("psnr", 0)), row["image"]))
    if not any("psnr" in row for row in rows):
        return [("one", row) for row in ranked[: 2 * _EACH]]
    worst, best = ranked[:_EACH], ranked[max(_EACH, len(ranked) - _EACH) :]
    return [("worst", row) for row in worst] + [("best", row) for row in best[::-1]]


def _picture(row: Row, rank: str, item: Item, output: np.ndarray, seed: int) -> Picture:
    lq, gt = item.load(seed)
    height, width = output.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    uris = ("" if image is None else _uri(image, size) for image in (lq, output, gt))
    return Picture(row, rank, *uris, *size)


def _uri(image: np.ndarray, size: tuple[int, int]) -> str:
    buffer = io.BytesIO()
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    small.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
