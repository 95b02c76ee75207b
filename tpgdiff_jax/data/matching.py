"""Which degraded image and which ground truth belong together: by name, never by position.

One rule for test sets and for training.  Published sets name the two sides in many ways; what
such names add to a number is known here.
"""

import collections
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from tpgdiff_jax.reporting.errors import UserError

_ALONE = "no degraded image has its name"
_NAMED = 3  # so many files are named in a line
# One trailing group: an underscore and a number (`_3`, `_0.85`) or a word (`_rain`, `_x4`).
_GROUP = re.compile(r"_[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*$")
# Words that say which side an image is on, as published sets write them.
_DEGRADED = (
    *("noisy", "noise", "hazy", "haze", "rainy", "rain", "snowy", "snow", "low", "blurry", "blur"),
    *("lq", "lr", "input", "source", "degraded", "distorted", "moire", "cloud", "cloudy", "shadow"),
)
_CLEAN = (
    *("gt", "clean", "clear", "sharp", "high", "normal", "norain", "nohaze", "hq", "hr", "target"),
    *("original", "truth", "groundtruth", "reference", "ref"),
)
_WORDS = {"degraded": "|".join(_DEGRADED), "clean": "|".join(_CLEAN)}
# A word at the beginning (`norain-001`, `low00690`), or a part of its own (`0001_GT_SRGB_010`).
_ROLE = {
    side: re.compile(
        rf"(?:^(?:{words})(?=[-_ .]?\d)[-_ .]?)|(?:[-_ .](?:{words})(?=[-_ .]|$))", re.IGNORECASE
    )
    for side, words in _WORDS.items()
}
# Folders of the two sides as published sets call them, in any case; the first that are there.
_SIDES = (
    *(("LQ", "GT"), ("input", "target"), ("input", "gt"), ("input", "groundtruth")),
    *(("low", "high"), ("low", "normal"), ("our485/low", "our485/high"), ("blur", "sharp")),
    *(("rain", "norain"), ("rainy", "norain"), ("rain", "gt"), ("rainy", "gt"), ("rainy", "clean")),
    *(("hazy", "gt"), ("hazy", "clear"), ("hazy", "clean"), ("haze", "clear"), ("data", "gt")),
    *(("noisy", "clean"), ("noisy", "gt"), ("snow", "gt"), ("snow", "clean"), ("source", "target")),
    *(("degraded", "clean"), ("lq", "hq"), ("lr", "hr"), ("blur", "gt"), ("moire", "clear")),
)


def match_names(
    lq_names: Iterable[str], gt_names: Iterable[str], rename: tuple[str, str] | None = None
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Match degraded images with their ground truths.

    A pair has the same stem, whatever the suffix.  Otherwise the words that tell the sides apart
    are left out: `01_hazy.png` belongs to `01_GT.png`, `night_low_2.png` to `night_2.png`.
    Otherwise the degraded image's stem loses its trailing `_<number or word>` groups, one at a
    time, until a truth has that stem: `1400_3.png` and `1400_0.8_0.2.jpg` belong to `1400.png`;
    at last without those words, too.  One truth may serve several degraded images.  Two files of
    one stem in one folder are ambiguous; neither is used.  Letters that are written in two ways in
    Unicode (an archive made on macOS) are the same.

    Args:
      lq_names: names of the degraded images, relative to their folder.
      gt_names: names of the ground truths, relative to theirs; sub-folders must agree.
      rename: (regular expression, replacement) that turns a truth's name, without its folder, into
        its degraded image's.

    Returns:
      pairs (lq, gt), sorted; and "LQ/name" or "GT/name" -> why it is in no pair.
    """
    lq_stems, gt_stems = _by_stem(lq_names), _by_stem(gt_names, rename)
    plain = collections.defaultdict(list)
    for stem in gt_stems:
        plain[_without_role(stem, "clean")].append(stem)
    pairs: list[tuple[str, str]] = []
    unmatched: dict[str, str] = {}
    for side, stems in (("LQ", lq_stems), ("GT", gt_stems)):
        for names in stems.values():
            for name in names if len(names) > 1 else ():
                others = ", ".join(other for other in names if other != name)
                unmatched[f"{side}/{name}"] = f"ambiguous: {others} has the same stem"
    for stem, names in lq_stems.items():
        if len(names) > 1:
            continue
        truth = _truths(stem, gt_stems, plain)
        if not truth:
            unmatched[f"LQ/{names[0]}"] = "no ground truth has its name"
        elif len(truth) > 1:
            unmatched[f"LQ/{names[0]}"] = f"ambiguous: may belong to {' or '.join(truth)}"
        else:
            pairs.append((names[0], truth[0]))
    used = {gt for _, gt in pairs}
    for names in gt_stems.values():
        if len(names) == 1 and names[0] not in used:
            unmatched[f"GT/{names[0]}"] = _ALONE
    return sorted(pairs), dict(sorted(unmatched.items()))


def match_files(
    lq_files: Mapping[str, pathlib.Path],
    gt_files: Mapping[str, pathlib.Path],
    rename: tuple[str, str] | None = None,
) -> tuple[list[tuple[str, str]], dict[pathlib.Path, str], list[str]]:
    """Match the files of a set's two sides, name -> file, as `match_names` does.

    A truth without a degraded image is no fault: only a part of a set may be there.

    Returns:
      pairs (lq, gt) of names, sorted; file -> why it cannot be used; names of truths without a
      degraded image, see `alone_truths`.
    """
    pairs, unmatched = match_names(lq_files, gt_files, rename)
    unusable, alone = {}, []
    for name, reason in unmatched.items():
        side, _, rest = name.partition("/")
        if reason == _ALONE:
            alone.append(rest)
        else:
            unusable[(lq_files if side == "LQ" else gt_files)[rest]] = reason
    return pairs, unusable, alone


def alone_truths(names: Sequence[str]) -> str:
    """Say in one line which truths have no degraded image."""
    named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} ground truths have no degraded image: {named}"


def sides_of(folder: pathlib.Path) -> tuple[str, str] | None:
    """Return what the folders of a set's two sides are called; None where it has no such two."""
    try:
        below = {name.lower(): name for name in os.listdir(folder)}
    except OSError:
        return None
    for sides in _SIDES:
        found = tuple(below.get(side.lower(), side) for side in sides)
        if all((folder / side).is_dir() for side in found):
            return found
    return None


def why_no_pair(lq_names: Sequence[str], gt_names: Sequence[str], rename: object) -> str:
    """Say how many images were found on each side, two examples of each, and what mends it."""

    def some(names: Sequence[str]) -> str:
        return f"{len(names)} ({', '.join(sorted(names)[:2])}{', ...' if len(names) > 2 else ''})"

    if not lq_names or not gt_names:
        side = "degraded images" if not lq_names else "ground truths"
        return f"no {side} were found"
    key = "gt_rename does not bring" if rename else "gt_rename=('PATTERN', 'REPLACEMENT') brings"
    return (
        f"{some(lq_names)} degraded images and {some(gt_names)} ground truths were found, but no "
        f"name of one side fits one of the other; {key} the truths' names to the others'"
    )


def _truths(
    stem: str, gt_stems: Mapping[str, list[str]], plain: Mapping[str, list[str]]
) -> list[str]:
    """Return the truths that a degraded image of this stem may belong to.

    Nothing is shortened while a truth has the whole name: `night_low_2` is that of `night_2`, not
    one more version of `night`.

    Args:
      stem: of the degraded image.
      gt_stems: stem -> truths.
      plain: stem without the words of the clean side -> stems.
    """
    bare = _without_role(stem, "degraded")
    shorter = list(candidates(stem))
    # Where a truth's own name has such a word, it tells no side.
    worded = [own for own in shorter if _without_role(own, "degraded") != own]
    for exact, without_words in (
        ([stem, *worded, bare], [bare, stem]),
        (shorter, [*candidates(bare), *shorter]),
    ):
        if found := next((gt_stems[choice] for choice in exact if choice in gt_stems), None):
            return found
        if found := next((plain[choice] for choice in without_words if choice in plain), None):
            return [name for own in found for name in gt_stems[own]]
    return []


def comparable(name: str) -> str:
    """Return a name in one of the forms that Unicode has for letters with accents."""
    return unicodedata.normalize("NFC", name)


def _by_stem(names: Iterable[str], rename: tuple[str, str] | None = None) -> dict[str, list[str]]:
    stems = collections.defaultdict(list)
    for name in sorted(set(names)):
        parent, slash, file = comparable(name).rpartition("/")
        try:
            known_as = re.sub(*map(comparable, rename), file) if rename else file
        except (re.error, IndexError) as error:
            raise UserError(
                f"gt_rename={tuple(rename)!r}: no regular expression and its replacement ({error})."
            ) from error
        stems[comparable(parent + slash + os.path.splitext(known_as)[0])].append(name)
    return dict(stems)


def candidates(stem: str) -> Iterable[str]:
    """Yield a stem, then what remains of it as trailing groups are removed."""
    yield stem
    while match := _GROUP.search(stem):
        stem = stem[: match.start()]
        if not stem or stem.endswith("/"):
            return
        yield stem


def _without_role(stem: str, side: str) -> str:
    """Leave out the words that say on which side an image is."""
    parent, slash, name = stem.rpartition("/")
    shorter = _ROLE[side].sub("", name)
    return parent + slash + (shorter or name)
