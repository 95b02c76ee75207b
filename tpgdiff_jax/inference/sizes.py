"""Few sizes for many pictures: padding to buckets, groups of one size, whole or in windows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

# Larger images are seen in windows; whole ones need about 4.5 GiB per megapixel at full width.
LARGEST_WHOLE = 2**20  # pixels
TILE = 768


def bucket(side: int, multiple: int = 64) -> int:
    """Return the length to which a side is padded.

    Sides up to 256 pixels go to multiples of 64, up to 1024 to multiples of 128, so that a folder
    of mixed sizes needs few programs; longer ones to multiples of 64 again, since there padding
    costs more than a program.

    Args:
      side: pixels.
      multiple: the result is a multiple of this, too.
    """
    step = 128 if 256 < side <= 1024 else 64
    step = np.lcm(step, multiple)
    return int(-(-side // step) * step)


def padded_size(size: tuple[int, int], rows: int = 64, *, exact: bool = False) -> tuple[int, int]:
    """Return the padded (height, width) of an image.

    Args:
      size: its (height, width).
      rows: the height becomes a multiple of this.
      exact: pad nothing.
    """
    return size if exact else (bucket(size[0], rows), bucket(size[1]))


def padded_to(size: tuple[int, int], image: np.ndarray) -> np.ndarray:
    """Reflect-pad an image [H, W, C] at the bottom and right to a (height, width)."""
    missing = [(0, wanted - side) for wanted, side in zip(size, image.shape[:2], strict=True)]
    return np.pad(image, (*missing, (0, 0)), mode="reflect")


def tile_for(size: tuple[int, int], wanted: int | None, spatial: int = 1) -> int:
    """Return the side of the windows for an image of a padded size; 0 for the whole image.

    Args:
      size: padded (height, width).
      wanted: what the user asked for; None leaves it to the size.
      spatial: devices that share the rows of an image.
    """
    if wanted is None:
        return TILE if size[0] * size[1] > LARGEST_WHOLE * spatial else 0
    return wanted if wanted and max(size) > wanted else 0


def samples_at_once(
    size: tuple[int, int], samples: int, tile: int = 0, windows: int = 1, spatial: int = 1
) -> int:
    """Return how many samples of an image are drawn together, the rest following in turns.

    Args:
      size: padded (height, width).
      samples: drawn of the image.
      tile: side of the windows; 0 for the whole image.
      windows: that a device sees at once.
      spatial: devices that share the rows of an image.

    Returns:
      the largest divisor of `samples` with which a device sees no more than `LARGEST_WHOLE` pixels,
      at least 1.
    """
    fitting = LARGEST_WHOLE // (windows * tile**2) if tile else _fitting(size, spatial)
    return max(n for n in range(1, max(1, min(samples, fitting)) + 1) if samples % n == 0)


def _fitting(size: tuple[int, int], spatial: int) -> int:
    return LARGEST_WHOLE * spatial // (size[0] * size[1])


def groups(
    sizes: Sequence[tuple[int, int]],
    most: int,
    tile: int | None,
    rows: int = 64,
    devices: int = 1,
    spatial: int = 1,
    samples: int = 1,
    exact: bool = False,
) -> Iterator[list[int]]:
    """Yield indices of images of one padded size, which are restored together.

    Args:
      sizes: (height, width) of the images.
      most: images in a group, for each device; large ones come in smaller groups, so that whole
        images hold no more than `LARGEST_WHOLE` pixels a device, and images in windows come alone.
      tile, spatial: as for `tile_for`.
      rows, exact: as for `padded_size`.
      devices: that share a batch of images.
      samples: drawn of each image; each counts as an image.
    """

    def together(size: tuple[int, int]) -> int:
        copies = samples_at_once(size, samples, spatial=spatial)
        fitting = max(1, _fitting(size, spatial) // copies)
        return 1 if tile_for(size, tile, spatial) else min(most, fitting) * devices

    yield from alike([padded_size(size, rows, exact=exact) for size in sizes], together)


def alike(kinds: Sequence[Any], most: Callable[[Any], int]) -> Iterator[list[int]]:
    """Yield indices of items of one kind each, together as many as `most` says of the kind.

    Args:
      kinds: of the items; one of kind None is left out.
      most: kind -> number.
    """
    by_kind: dict[Any, list[int]] = {}
    for index, kind in enumerate(kinds):
        if kind is not None:
            by_kind.setdefault(kind, []).append(index)
    for kind, members in by_kind.items():
        together = most(kind)
        yield from (members[n : n + together] for n in range(0, len(members), together))


def filled_up(count: int, multiple: int = 1) -> int:
    """Return how many rows a batch of `count` images gets: few numbers, so few programs.

    Args:
      count: images.
      multiple: devices that share a batch.

    Returns:
      a power of two times `multiple`.
    """
    rows = multiple
    while rows < count:
        rows *= 2
    return rows
