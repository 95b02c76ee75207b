"""Find the files of a test set: match them by name, check their sizes, list what cannot be used."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import threading
from typing import Any

import numpy as np

from tpgdiff_jax.benchmark.sets import Item, OpenSet, SetSpec
from tpgdiff_jax.data.folders import here, images_below
from tpgdiff_jax.data.matching import alone_truths, match_files, why_no_pair
from tpgdiff_jax.data.pictures.kinds import EXTENSIONS
from tpgdiff_jax.data.sources import scan_sizes
from tpgdiff_jax.evaluation.protocols import PROTOCOLS, cropped_size
from tpgdiff_jax.stores.urls import NothingThereError, is_url, join

# PromptIR's test program seeds once, then scores its images with these sigmas in turn.
_PASSES_BEFORE = {15.0: 0, 25.0: 1, 50.0: 2}


class AbsentSetError(Exception):
    """A test set whose files are not there; the message says where to get them."""


def open_set(spec: SetSpec, root: pathlib.Path) -> OpenSet:
    """Find a set's files; reads headers only (whole files where a hash is given).

    Args:
      spec: what to look for.
      root: folder of all sets.

    Returns:
      the set; files that cannot be used are in `skipped`.

    Raises:
      AbsentSetError: its folder is missing or holds no image; says where to get it.
    """
    folder = _folder(spec, root)
    lq_files, gt_files = {}, {}
    if spec.layout != "clean":
        lq_files = images_below(folder, f"{spec.lq}|LQ")
    if spec.layout != "unpaired":
        gt_files = images_below(folder, f"{spec.gt}|GT")
    if not (lq_files or spec.layout == "clean") or not (gt_files or spec.layout == "unpaired"):
        raise AbsentSetError(
            f"not in {folder}. Expected: {spec.expected_layout()}. "
            f"Get it from: {spec.source or 'wherever it was made'}."
        )
    skipped: dict[str, str] = {}
    alone: list[str] = []
    if spec.layout == "pairs":
        found, unusable, alone = match_files(lq_files, gt_files, spec.gt_rename)
        skipped |= {str(path): reason for path, reason in unusable.items()}
        triples = [(lq, lq_files[lq], gt_files[gt]) for lq, gt in found]
    else:
        files = gt_files if spec.layout == "clean" else lq_files
        triples = [
            (name, None, path) if spec.layout == "clean" else (name, path, None)
            for name, path in sorted(files.items())
        ]
    items = _with_sizes(spec, triples, skipped)
    if spec.seed_rule == "sequence" and spec.sigma:
        items = _in_one_stream(items, _PASSES_BEFORE.get(spec.sigma, 0))
    remarks = _remarks(spec, items)
    if alone and triples:
        remarks.append(alone_truths(alone))
    if not items:
        remarks.append(_why_empty(spec, list(lq_files), list(gt_files), triples, skipped))
    return OpenSet(spec, items, skipped, remarks)


def _folder(spec: SetSpec, root: pathlib.Path) -> pathlib.Path:
    """Return where a set lies on this machine; of a root in a store that set alone is copied."""
    below = pathlib.PurePath(spec.folder)
    try:
        if is_url(root) and not (is_url(below) or below.is_absolute()):
            return here(join(root, "/".join(below.parts)))  # "." is the root itself
        return here(root) / here(spec.folder)
    except NothingThereError as error:
        source = spec.source or "wherever it was made"
        raise AbsentSetError(
            f"{error} Expected: {spec.expected_layout()}. Get it from: {source}."
        ) from error


def _why_empty(
    spec: SetSpec, lq_names: list[str], gt_names: list[str], triples: list, skipped: dict[str, str]
) -> str:
    """Say what was found where nothing can be scored, and which key mends it."""
    if spec.layout == "pairs" and not triples:
        return f"no pair: {why_no_pair(lq_names, gt_names, spec.gt_rename)}"
    first = next(iter(skipped.values()), f"no image ({', '.join(EXTENSIONS)})")
    differ = "but its ground truth is" in first
    mend = "; centre_crop=True cuts larger truths to size" if differ else ""
    return f"none of its {len(triples)} images can be used: {first}{mend}"


def _with_sizes(spec: SetSpec, triples: list[tuple], skipped: dict[str, str]) -> list[Item]:
    protocol = PROTOCOLS[spec.protocol]
    sizes = {}
    for side in (1, 2):
        paths = list(dict.fromkeys(row[side] for row in triples if row[side] is not None))
        sizes |= dict(zip(paths, scan_sizes(paths), strict=True))
    items = []
    for name, lq, gt in triples:
        own, other = (sizes.get(path) for path in ((lq, gt) if lq else (gt, None)))
        reason = None
        if isinstance(own, str):
            reason = own
        elif isinstance(other, str):
            reason = f"its ground truth {gt} cannot be used: {other}"
        elif other is not None and other != own and not (spec.centre_crop and _holds(other, own)):
            reason = f"{own[1]}x{own[0]}, but its ground truth is {other[1]}x{other[0]}"
        elif min(cropped_size(protocol, own)) < protocol.smallest:
            reason = f"{own[1]}x{own[0]} is too small for the protocol {protocol.name}"
        if reason:
            skipped[str(lq or gt)] = reason
        else:
            items.append(Item(spec, name, lq, gt, cropped_size(protocol, own)))
    return items


def _holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer[0] >= inner[0] and outer[1] >= inner[1]


def _in_one_stream(items: list[Item], passes: int) -> list[Item]:
    """Give every item the state the common stream has when its turn comes.

    Args:
      items: of the set, in the stream's order.
      passes: over all of them that the stream has gone before, for other sigmas.
    """
    states: list[Any] = []
    lock = threading.Lock()  # images are read in threads

    def state_of(index: int) -> Any:
        with lock:
            if not states:
                stream = np.random.RandomState(0)
                for item in items * passes:
                    stream.randn(*item.size, 3)
                for item in items:
                    states.append(stream.get_state())
                    stream.randn(*item.size, 3)
        return states[index]

    draws = [3 * item.size[0] * item.size[1] for item in items]
    before = itertools.accumulate(draws, initial=passes * sum(draws))
    return [
        dataclasses.replace(
            item, noise_state=lambda index=index: state_of(index), draws_before=place
        )
        for index, (item, place) in enumerate(zip(items, before, strict=False))
    ]


def content_hash(items: list[Item]) -> str:
    """Return the SHA-256 over the files' names and contents: true images, or the only ones."""
    total = hashlib.sha256()
    for path in sorted({item.gt or item.lq for item in items}):
        total.update(os.fsencode(path.name) + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _remarks(spec: SetSpec, items: list[Item]) -> list[str]:
    remarks = []
    if spec.count is not None and len(items) != spec.count:
        why = "not the whole benchmark"
        if len(items) > spec.count:
            why = "more than it has; are there copies in sub-folders?"
        remarks.append(f"{len(items)} images instead of {spec.count}: {why}")
    if spec.sha256 and (found := content_hash(items)) != spec.sha256:
        remarks.append(f"its files have the hash {found}, not {spec.sha256}: other pictures")
    return remarks
