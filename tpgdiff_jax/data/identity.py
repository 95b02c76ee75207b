"""What tells a run's images from others, without reading them."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging


def fingerprint(sources: Sequence[Any]) -> dict[str, Any]:
    """Tell what a sequence is drawn from, so that a run notices when its data changed.

    Returns:
      {"images": number of elements, "identity": SHA-256 of what the sources say of themselves}.
    """
    lines = itertools.chain.from_iterable(source.identity() for source in sources)
    return {"images": sum(map(len, sources)), "identity": _digest(lines)}


def is_same_data(place: Mapping[str, Any], sources: Sequence[Any]) -> bool:
    """Tell whether a run's place in its data, as a checkpoint holds it, is one in these sources.

    Earlier programs kept a digest of every element's name.  For folders it is the digest of
    today; of record files the names must be read, once: the next checkpoint holds what is cheap.

    Args:
      place: with what `fingerprint` returned when it was stored, by an earlier program maybe.
      sources: those of now.
    """
    now = fingerprint(sources)
    if "names" not in place:
        return all(place.get(key) == value for key, value in now.items())
    if place["images"] != now["images"]:
        return False
    if place["names"] == now["identity"]:
        return True
    logging.info("This run was started by an earlier program: reading the names of all its images.")
    return place["names"] == _digest(s.name(number) for s in sources for number in range(len(s)))


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
