"""Test sets: what belongs to one, where its files lie, and how each picture is made.

A set that is absent, or of which files are bad, never stops a job: it is listed, with the reason.
"""

import dataclasses
import os
import pathlib
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from tpgdiff_jax.data.degradations.coding import jpeg
from tpgdiff_jax.data.degradations.mix import degrade, parse
from tpgdiff_jax.data.folders import check_side
from tpgdiff_jax.data.images import cut_like, read_rgb
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    add_noise,
    centre_cropped,
)
from tpgdiff_jax.keys.checks import Check, flag, number, one_of, text, tuple_of, whole
from tpgdiff_jax.reporting.errors import UserError

LAYOUTS = ("pairs", "clean", "unpaired")
SEED_RULES = {
    "name": "seed from the job's seed and the image's name",
    "sequence": "one stream of numpy's RandomState(0) over sigma 15, then 25, then 50, images "
    "sorted by name; another sigma starts it anew",
}

# What the fields of a set may be that are not just any text.
_FIELDS = {
    "layout": one_of(LAYOUTS),
    "gt_rename": Check(
        lambda value: value is None or (tuple_of(text()).fits(value) and len(value) == 2),
        "a pair of texts, or None",
    ),
    "centre_crop": flag(),
    "sigma": number(least=0),
    "jpeg_quality": dataclasses.replace(whole(0, 100), words="1 to 100, or 0 for no JPEG"),
    "seed_rule": one_of(SEED_RULES),
    "protocol": one_of(PROTOCOLS),
    "count": Check(lambda value: value is None or whole(1).fits(value), "1 or more, or None"),
}


@dataclasses.dataclass(frozen=True)
class SetSpec:
    """What a test set is.

    Attributes:
      name: its key; results and published numbers are filed under it.
      folder: where it lies, relative to `benchmark.root` or absolute.
      layout: `pairs` (degraded and true images), `clean` (true images; the degraded ones are made)
        or `unpaired` (degraded images alone; only scores without reference).
      lq, gt: sub-folders of a pair's images, or patterns of files (see `folders.images_below`);
        what `*` matches must agree.  Where they are missing, LQ and GT are looked for.
      gt_rename: (pattern, replacement) that turns a truth's name into its degraded image's; words
        that tell the sides apart, such as `_hazy` and `_GT`, need none (see `match_names`).
      centre_crop: of a truth that is larger than its degraded image, the centre is the truth.
      sigma: clean: Gaussian noise of so many grey levels.
      recipe: clean: what else is done, e.g. "haze:3 + rain:2"; severity 0 leaves an image clean.
      jpeg_quality: clean: last of all, saved as a JPEG of just this quality, colours 4:2:0.
      seed_rule: of the noise, one of `SEED_RULES`.
      protocol: how scores are computed, a name of `protocols.PROTOCOLS`.
      degradation: what degraded the images, the truth of the confusion matrix: a name, several
        joined by `+`, or with `|` between them where either is right ("cloud_thin|cloud_thick").
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
    centre_crop: bool = False
    sigma: float = 0.0
    recipe: str = ""
    jpeg_quality: int = 0
    seed_rule: str = "name"
    protocol: str = "tpgdiff"
    degradation: str = ""
    count: int | None = None
    sha256: str = ""
    title: str = ""
    source: str = ""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            check, value = _FIELDS.get(field.name, text()), getattr(self, field.name)
            if not check.fits(value):
                raise UserError(
                    f"Test set {self.name!r}: {field.name}={value!r}: expected {check.words}."
                )
        for key in ("lq", "gt"):
            check_side(getattr(self, key), f"Test set {self.name!r}: {key}")
        if self.recipe:
            parse(self.recipe)
        if (self.layout == "clean") != bool(self.sigma or self.recipe or self.jpeg_quality):
            raise UserError(
                f"Test set {self.name!r}: sigma, recipe or jpeg_quality go with layout='clean', "
                "and it needs one."
            )
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):  # it names a folder of results
            raise UserError(
                f"Test set {self.name!r}: its name may hold letters, digits, and - _ . only, and "
                "begin with no dot; choose another name."
            )

    def expected_layout(self) -> str:
        """Say in words how the files must lie."""
        if self.layout == "unpaired":
            return f"images below {self.folder}/{self.lq}"
        if self.layout == "clean":
            return f"clean images below {self.folder}/{_choices(self.gt)}".rstrip("/")
        both = f"{self.folder}/{_choices(self.lq)} and {self.folder}/{_choices(self.gt)}"
        return f"pairs, matched by name, in {both} (or in LQ and GT there)"

    def seed_text(self) -> str:
        """Say how the noise of made images is seeded."""
        return SEED_RULES[self.seed_rule] if self.layout == "clean" else "files as they are"


def _choices(pattern: str) -> str:
    """Say which folders may hold a side of a set."""
    names = [choice or "." for choice in pattern.split("|")]
    return names[0] if len(names) == 1 else f"{names[0]} (or {', '.join(names[1:])})"


@dataclasses.dataclass(frozen=True)
class Item:
    """One image to score.

    Attributes:
      spec: its set.
      name: of the degraded (or clean) image, relative to its folder: its identity.
      lq, gt: files; None where there is none.
      size: (height, width) after the protocol's crop.
      noise_state: returns the state in which a stream that the set's images share comes to this
        one; None where the name alone decides the noise.
      draws_before: numbers the stream has given by then.
    """

    spec: SetSpec
    name: str
    lq: pathlib.Path | None
    gt: pathlib.Path | None
    size: tuple[int, int]
    noise_state: Callable[[], Any] | None = dataclasses.field(default=None, compare=False)
    draws_before: int | None = None

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
          UnreadableImageError: a file that is damaged, or has changed its size.
        """
        lq, gt = (None if path is None else read_rgb(path) for path in (self.lq, self.gt))
        if self.spec.centre_crop and lq is not None and gt is not None:
            gt = cut_like(gt, lq.shape[:2])
        lq, gt = (
            None if image is None else centre_cropped(self.protocol, image) for image in (lq, gt)
        )
        for path, image in ((self.lq, lq), (self.gt, gt)):
            if image is not None and image.shape[:2] != self.size:
                raise UnreadableImageError(path, "has another size than when the job began")
        if self.spec.layout == "clean":
            lq = gt
            if self.spec.recipe:
                lq = degrade(lq, parse(self.spec.recipe, seed=self._recipe_seed(seed)))
            if self.spec.sigma:
                lq = add_noise(self.protocol, lq, self._normal(seed), self.spec.sigma)
            if self.spec.jpeg_quality:
                lq = _as_jpeg(lq, self.spec.jpeg_quality)
        return lq, gt

    def recipe(self, seed: int) -> dict[str, Any] | None:
        """Return what is done to a clean image, as plain JSON data; None where nothing is."""
        spec = self.spec
        if spec.layout != "clean":
            return None
        recipe = {"sigma": spec.sigma, "seed_rule": spec.seed_rule} if spec.sigma else {}
        if spec.recipe:
            recipe |= parse(spec.recipe, seed=self._recipe_seed(seed)).to_json()
        if spec.jpeg_quality:
            recipe |= {"jpeg_quality": spec.jpeg_quality}
        return recipe

    def _recipe_seed(self, seed: int) -> int:
        return zlib.crc32(os.fsencode(f"{seed}/{self.name}")) >> 1

    def _normal(self, seed: int) -> np.ndarray:
        shape = (*self.size, 3)
        if self.noise_state is not None:
            stream = np.random.RandomState()
            stream.set_state(self.noise_state())
            return stream.randn(*shape)
        # The name's bytes on disk, which need not be valid text.
        own = zlib.crc32(os.fsencode(self.name))
        return np.random.default_rng([seed, own]).standard_normal(shape)


def _as_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Save uint8 [H, W, 3] as a JPEG and read it back."""
    coded = jpeg(image.astype(np.float32) / 255, quality=quality, subsampling="4:2:0")
    return np.round(coded * 255).astype(np.uint8)


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
