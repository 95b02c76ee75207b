"""Test sets: what belongs to one, where its files lie, and how each picture is made.

A set that is absent, or of which files are bad, never stops a job: it is listed, with the reason.
"""

import dataclasses
import hashlib
import pathlib
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tpgdiff_jax.data.degradations.mix import degrade, parse
from tpgdiff_jax.data.images import EXTENSIONS, read_rgb
from tpgdiff_jax.data.pairs import match_names
from tpgdiff_jax.data.sources import image_names, scan_sizes
from tpgdiff_jax.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    add_noise,
    centre_cropped,
    cropped_size,
)

LAYOUTS = ("pairs", "clean", "unpaired")
SEED_RULES = {
    "name": "seed from the job's seed and the image's name",
    "sequence": "one stream of numpy's RandomState(0), images sorted by name",
}


class AbsentSetError(Exception):
    """A test set whose files are not there; the message says where to get them."""


@dataclasses.dataclass(frozen=True)
class SetSpec:
    """What a test set is.

    Attributes:
      name: its key; results and published numbers are filed under it.
      folder: where it lies, relative to `benchmark.root` or absolute.
      layout: `pairs` (degraded and true images), `clean` (true images; the degraded ones are made)
        or `unpaired` (degraded images alone; only scores without reference).
      lq, gt: sub-folders of a pair's images ("" for the folder itself; `*` matches any name, and
        what it matches must agree).  Where they are missing, LQ and GT are looked for.
      gt_rename: (pattern, replacement) that turns a truth's name into its degraded image's.
      sigma: clean: Gaussian noise of so many grey levels.
      recipe: clean: what else is done, e.g. "haze:3 + rain:2".
      seed_rule: of the noise, one of `SEED_RULES`.
      protocol: how scores are computed, a name of `protocols.PROTOCOLS`.
      degradation: what harmed the images; the truth of the confusion matrix.
      count: pairs the whole set has; None where it is not known.
      sha256: optional, of the true (or only) images, as `content_hash` computes it.
      title, source: what it is called, and where to get it.
    """

    name: str
    folder: str
    layout: str = "pairs"
    lq: str = "LQ"
    gt: str = "GT"
    gt_rename: tuple[str, str] | None = None
    sigma: float = 0.0
    recipe: str = ""
    seed_rule: str = "name"
    protocol: str = "tpgdiff"
    degradation: str = ""
    count: int | None = None
    sha256: str = ""
    title: str = ""
    source: str = ""

    def __post_init__(self):
        for key, value, choices in (
            ("layout", self.layout, LAYOUTS),
            ("protocol", self.protocol, PROTOCOLS),
            ("seed_rule", self.seed_rule, SEED_RULES),
        ):
            if value not in choices:
                raise ValueError(
                    f"Test set {self.name!r}: {key}={value!r}: expected one of "
                    f"{', '.join(choices)}."
                )
        if self.recipe:
            parse(self.recipe)
        if (self.layout == "clean") != bool(self.sigma or self.recipe):
            raise ValueError(
                f"Test set {self.name!r}: sigma or recipe go with layout='clean', and it needs one."
            )
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(
                f"Test set {self.name!r}: its name may hold letters, digits, and - _ . only."
            )

    def expected_layout(self) -> str:
        """Say in words how the files must lie."""
        if self.layout == "unpaired":
            return f"images below {self.folder}/{self.lq}"
        if self.layout == "clean":
            return f"clean images below {self.folder}/{self.gt}".rstrip("/")
        both = f"{self.folder}/{self.lq} and {self.folder}/{self.gt}"
        return f"pairs, matched by name, in {both} (or in LQ and GT there)"

    def seed_text(self) -> str:
        """Say how the noise of made images is seeded."""
        return SEED_RULES[self.seed_rule] if self.layout == "clean" else "files as they are"


@dataclasses.dataclass(frozen=True)
class Item:
    """One image to score.

    Attributes:
      spec: its set.
      name: of the degraded (or clean) image, relative to its folder: its identity.
      lq, gt: files; None where there is none.
      size: (height, width) after the protocol's crop.
    """

    spec: SetSpec
    name: str
    lq: pathlib.Path | None
    gt: pathlib.Path | None
    size: tuple[int, int]
    noise_state: Callable[[], Any] | None = dataclasses.field(default=None, compare=False)

    @property
    def protocol(self) -> Protocol:
        """How it is scored."""
        return PROTOCOLS[self.spec.protocol]

    def load(self, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read, cut and, where the set asks for it, degrade.

        Args:
          seed: of the job; decides noise and recipes, with the image's name.

        Returns:
          (degraded, true) uint8 [H, W, 3]; the truth is None in unpaired sets.

        Raises:
          UnreadableImageError: a file that is damaged.
        """
        lq, gt = (
            None if path is None else centre_cropped(self.protocol, read_rgb(path))
            for path in (self.lq, self.gt)
        )
        if self.spec.layout == "clean":
            lq = gt
            if self.spec.recipe:
                lq = degrade(lq, parse(self.spec.recipe, seed=self.recipe_seed(seed)))
            if self.spec.sigma:
                lq = add_noise(self.protocol, lq, self._normal(seed), self.spec.sigma)
        return lq, gt

    def recipe_seed(self, seed: int) -> int:
        """Return the seed of this image's degradations."""
        return zlib.crc32(f"{seed}/{self.name}".encode()) >> 1

    def _normal(self, seed: int) -> np.ndarray:
        shape = (*self.size, 3)
        if self.noise_state is not None:
            stream = np.random.RandomState()
            stream.set_state(self.noise_state())
            return stream.randn(*shape)
        return np.random.default_rng([seed, zlib.crc32(self.name.encode())]).standard_normal(shape)


@dataclasses.dataclass
class OpenSet:
    """A set whose files were found.

    Attributes:
      spec: what it is.
      items: its images, sorted by name.
      skipped: file -> why it is not scored.
      remarks: what a reader of its scores must know.
    """

    spec: SetSpec
    items: list[Item]
    skipped: dict[str, str]
    remarks: list[str]


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
    folder = root / spec.folder
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
        items = _in_one_stream(items)
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


def _in_one_stream(items: list[Item]) -> list[Item]:
    """Give every item the state the common stream has when its turn comes."""
    states: list[Any] = []

    def state_of(index: int) -> Any:
        if not states:
            stream = np.random.RandomState(0)
            for item in items:
                states.append(stream.get_state())
                stream.randn(*item.size, 3)
        return states[index]

    return [
        dataclasses.replace(item, noise_state=lambda index=index: state_of(index))
        for index, item in enumerate(items)
    ]


def content_hash(items: list[Item]) -> str:
    """Return the SHA-256 over the files' names and contents: true images, or the only ones."""
    total = hashlib.sha256()
    for path in sorted({item.gt or item.lq for item in items}):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
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
