"""Find the files of a test set: match them by name, check their sizes, list what cannot be used."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
from typing import Any

import numpy as np

from tpgdiff_jax.benchmark.sets import Item, OpenSet, SetSpec
from tpgdiff_jax.data.folders import home
from tpgdiff_jax.data.images import EXTENSIONS
from tpgdiff_jax.data.pairs import match_names
from tpgdiff_jax.data.sources import image_names, scan_sizes
from tpgdiff_jax.evaluation.protocols import PROTOCOLS, cropped_size

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
    folder = home(root) / home(spec.folder)
    lq_files, gt_files = {}, {}
    if spec.layout != "clean":
        lq_files = _listed(folder, spec.lq) or _listed(folder, "LQ")
    if spec.layout != "unpaired":
        gt_files = _listed(folder, spec.gt) or _listed(folder, "GT")
    if not (lq_files or spec.layout == "clean") or not (gt_files or spec.layout == "unpaired"):
        raise AbsentSetError(
            f"not in {folder}. Expected: {spec.expected_layout()}. "
            f"Get it from: {spec.source or 'wherever it was made'}."
        )
    skipped: dict[str, str] = {}
    if spec.layout == "pairs":
        named = {_renamed(name, spec.gt_rename): path for name, path in gt_files.items()}
        found, unmatched = match_names(lq_files, named)
        for name, reason in unmatched.items():
            side, _, rest = name.partition("/")
            # One truth may be left over because only a part of a set is there; that is no fault.
            if side == "LQ" or reason.startswith("ambiguous"):
                skipped[str((lq_files if side == "LQ" else named)[rest])] = reason
        triples = [(lq, lq_files[lq], named[gt]) for lq, gt in found]
    else:
        files = gt_files if spec.layout == "clean" else lq_files
        triples = [
            (name, None, path) if spec.layout == "clean" else (name, path, None)
            for name, path in sorted(files.items())
        ]
    items = _with_sizes(spec, triples, skipped)
    if spec.seed_rule == "sequence" and spec.sigma:
        items = _in_one_stream(items, _PASSES_BEFORE.get(spec.sigma, 0))
    return OpenSet(spec, items, skipped, _remarks(spec, items))


def _listed(folder: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
    """List images as name -> path; the name is what a pattern's stars matched, and the rest."""
    found = {}
    for base in sorted(folder.glob(pattern)) if pattern else [folder]:
        if not base.is_dir():
            continue
        parts = base.relative_to(folder).parts
        fixed = pathlib.PurePath(pattern).parts
        stars = [part for part, want in zip(parts, fixed, strict=True) if "*" in want]
        if any(part.startswith(".") for part in stars):  # hidden: what macOS leaves behind
            continue
        for name in image_names(base):
            found["/".join([*stars, name])] = base / name
    return found


def _renamed(name: str, rule: tuple[str, str] | None) -> str:
    if rule is None:
        return name
    parent, slash, file = name.rpartition("/")
    return parent + slash + re.sub(rule[0], rule[1], file)


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
        elif other is not None and other != own:
            reason = f"{own[1]}x{own[0]}, but its ground truth is {other[1]}x{other[0]}"
        elif min(cropped_size(protocol, own)) < protocol.smallest:
            reason = f"{own[1]}x{own[0]} is too small for the protocol {protocol.name}"
        if reason:
            skipped[str(lq or gt)] = reason
        else:
            items.append(Item(spec, name, lq, gt, cropped_size(protocol, own)))
    return items


def _in_one_stream(items: list[Item], passes: int) -> list[Item]:
    """Give every item the state the common stream has when its turn comes.

    Args:
      items: of the set, in the stream's order.
      passes: over all of them that the stream has gone before, for other sigmas.
    """
    states: list[Any] = []

    def state_of(index: int) -> Any:
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
        remarks.append(f"{len(items)} images instead of {spec.count}: not the whole benchmark")
    if spec.sha256 and (found := content_hash(items)) != spec.sha256:
        remarks.append(f"its files have the hash {found}, not {spec.sha256}: other pictures")
    if not items:
        remarks.append(f"no usable image ({', '.join(EXTENSIONS)})")
    return remarks
