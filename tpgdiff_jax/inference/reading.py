"""Take a long list of images some at a time, so that memory holds only these."""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from tpgdiff_jax.data.pictures.door import read_size
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.inference.input_images import InputImage, as_input, is_one_picture
from tpgdiff_jax.reporting.errors import UserError

_WINDOW_PIXELS = 2**24
_THREADS = 4  # that look at files
_PART = 64  # files that one of them looks at in turn, at most
_ONE_EACH = "Give one text for each image (None for no name), or leave names out."


def require_several(images: Any) -> None:
    """Raise UserError for one image, of which a loop would take letters or rows for images."""
    is_one = isinstance(images, str | bytes | os.PathLike | Image.Image)
    if is_one or is_one_picture(getattr(images, "shape", ())):
        raise UserError("One image was given, but several are expected: put it into a list.")


def with_names(
    images: Iterable[Any], names: Iterable[str | None] | None
) -> Iterator[tuple[Any, str | None]]:
    """Put the name given for each image beside it; without names, None.

    Raises:
      UserError: names that are no texts, or more or fewer of them than images: at once where both
        can be counted, else when one of them ends.
    """
    if names is None:
        return zip(images, itertools.repeat(None))
    if isinstance(names, str | bytes):
        raise UserError(f"names={names!r}: expected a list of names. {_ONE_EACH}")
    if isinstance(images, Sized) and isinstance(names, Sized) and len(images) != len(names):
        raise UserError(f"names: {len(names)} for {len(images)} images. {_ONE_EACH}")
    return _paired(images, names)


def _paired(images: Iterable[Any], names: Iterable[str | None]) -> Iterator[tuple[Any, str | None]]:
    end = object()
    for count, (image, name) in enumerate(itertools.zip_longest(images, names, fillvalue=end)):
        if image is end or name is end:
            which = "names" if name is end else "images"
            raise UserError(f"names: the {which} end after {count}, the others go on. {_ONE_EACH}")
        if not isinstance(name, str | None):
            raise UserError(f"names: {name!r} is no text. {_ONE_EACH}")
        yield image, name


def read_named(named: tuple[Any, str | None]) -> InputImage:
    """Take an image of any kind apart; a name given with it takes the place of its own."""
    image, name = named
    picture = as_input(image)
    return picture if name is None else dataclasses.replace(picture, name=name)


def windows(named: Iterable[tuple[Any, Any]], most: int) -> Iterator[list[tuple[Any, Any]]]:
    """Yield images some at a time, few where they are large: as many as memory should hold."""
    window, pixels = [], 0
    for image, name in named:
        window.append((image, name))
        pixels += _pixels(image)
        if len(window) == most or pixels > _WINDOW_PIXELS:
            yield window
            window, pixels = [], 0
    if window:
        yield window


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """Return what a function answers of each item, in order; on network disks each file waits."""
    size = min(_PART, 1 + len(items) // (4 * _THREADS))  # so that all threads end together
    parts = (items[first : first + size] for first in range(0, len(items), size))
    with ThreadPoolExecutor(_THREADS) as pool:
        answers = pool.map(lambda part: list(map(function, part)), parts)
        return itertools.chain.from_iterable(list(answers))


def _pixels(image: Any) -> int:
    """Return how many pixels an image has, of a file by its header; 0 where that says nothing."""
    try:
        if isinstance(image, str | os.PathLike):
            return math.prod(read_size(image))
    except (UnreadableImageError, OSError):
        return 0  # reading it will tell why
    if isinstance(image, InputImage):
        image = image.rgb
    return math.prod(image.size if isinstance(image, Image.Image) else np.shape(image)[:2])
