"""Photos in a given number of bytes: copied as they are, the largest encoded again if need be."""

import io
import math
import pathlib
import shutil
from collections.abc import Iterator

from PIL import Image

from tpgdiff_jax.data.folders import list_images
from tpgdiff_jax.data.images import read_rgb
from tpgdiff_jax.data.pictures.door import read_size
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.reporting.errors import UserError

# (scale of both sides, quality of WebP), in the order in which they are tried.  Shrinking hides
# what an encoder does, so it comes before low quality.
_STEPS = ((1.0, 95), (1.0, 90), (0.75, 92), (0.75, 88), (0.5, 92), (0.5, 85), (0.5, 75))
_LEAST_SIDE = 256  # no photo's shorter side is made smaller: crops are taken from them
# Photos of fewer pixels are left alone for as long as the first steps suffice for the others.
_SMALL_PIXELS = 250_000
_FIRST_STEPS = 4


def pack(source: pathlib.Path, target: pathlib.Path, budget: int) -> dict:
    """Copy the photos below a folder; sub-folders and names are kept.

    What fits is copied untouched.  Else the largest files are encoded again, one after the other,
    only as many and as strongly as it takes.

    Args:
      source: the photos.
      target: where to; made.
      budget: bytes of all of them, at most.

    Returns:
      {"count", "untouched", "encoded", "unreadable", "mib"}.

    Raises:
      UserError: there are none, or they do not fit.
    """
    names = list_images(source).names
    if not names:
        raise UserError(f"--photos={source} holds no image files.")
    sizes = {name: (source / name).stat().st_size for name in names}
    encoded: dict[str, bytes] = {}
    unreadable: list[str] = []
    total = sum(sizes.values())
    for scale, quality, name in _tries(source, sizes) if total > budget else ():
        data = _encode(source / name, scale, quality)
        if data is None:
            unreadable.append(name)
            total -= sizes.pop(name)
        elif len(data) < sizes[name]:
            total += len(data) - sizes[name]
            sizes[name], encoded[name] = len(data), data
        if total <= budget:
            break
    if total > budget:
        raise UserError(
            f"--photos={source}: {len(sizes)} photos take {total / 2**20:.1f} MiB at the lowest "
            f"quality, {budget / 2**20:.1f} MiB are left for them. Give fewer, or raise --limit."
        )
    for name in sizes:
        _write(source / name, target / name, encoded.get(name))
    return {
        "count": len(sizes),
        "untouched": len(sizes) - len(encoded),
        "encoded": len(encoded),
        "unreadable": sorted(unreadable),
        "mib": round(total / 2**20, 2),
    }


def _tries(source: pathlib.Path, sizes: dict[str, int]) -> Iterator[tuple[float, int, str]]:
    """Yield (scale, quality, name) in the order to try; `sizes` may shrink meanwhile."""
    pixels = {name: _pixels(source / name) for name in sizes}
    for number, (scale, quality) in enumerate((*_STEPS[:_FIRST_STEPS], *_STEPS)):
        least = _SMALL_PIXELS if number < _FIRST_STEPS else 0
        for name in sorted(sizes, key=sizes.get, reverse=True):
            if name in sizes and pixels[name] >= least:
                yield scale, quality, name


def _pixels(path: pathlib.Path) -> int:
    try:
        return math.prod(read_size(path))
    except UnreadableImageError:
        return 0


def _encode(path: pathlib.Path, scale: float, quality: int) -> bytes | None:
    """Return a photo as WebP; None where it cannot be read."""
    try:
        image = Image.fromarray(read_rgb(path))
    except UnreadableImageError:
        return None
    scale = min(1.0, max(scale, _LEAST_SIDE / min(image.size)))
    if scale < 1:
        size = [round(side * scale) for side in image.size]
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def _write(source: pathlib.Path, target: pathlib.Path, data: bytes | None) -> None:
    """Write one photo; the name stays, since readers go by the content and runs by the names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if data is None:
        shutil.copyfile(source, target)
    else:
        target.write_bytes(data)
