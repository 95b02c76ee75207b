"""All training images of a configuration, opened and accounted for."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from tpgdiff_jax.data.degradations.mix import Mixture
from tpgdiff_jax.data.identity import fingerprint
from tpgdiff_jax.data.open_source import KINDS, open_source
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.data.sources import Source
from tpgdiff_jax.reporting.errors import UserError

_WEIGHT = r"(?:\*(?P<weight>-?[\d.]+))?"
# Only TFDS sets have names and splits: folders of others may be called `user@firm` or `a::b`.
_TFDS = re.compile(
    r"(?P<kind>tfds_\w+):(?P<path>.+?)(?:::(?P<name>[^@*]+))?@(?P<split>[^@*]+)" + _WEIGHT
)
_SPEC = re.compile(r"(?P<kind>\w+):(?P<path>.+?)(?:\?(?P<keys>\w+=[^?]*?))?" + _WEIGHT)
_YES_NO = {"yes": True, "no": False}
_FORMS = "KIND:PATH[*WEIGHT], tfds_KIND:PATH[::NAME]@SPLIT[*WEIGHT] or pairs:PATH?KEY=VALUE&..."


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """The sources a run draws from.

    Attributes:
      sources: of clean photos or of pairs.
      weights: how often each comes; () for shares by their lengths.
      report: the files that could not be used.
      fingerprint: tells these images from others; see `identity.fingerprint`.
    """

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    report: SkipReport
    fingerprint: dict[str, Any]

    def summary(self) -> str:
        """Say in one line what there is and what was skipped."""
        return "; ".join(source.summary() for source in self.sources)

    def check(self, max_bad_share: float) -> None:
        """Raise UserError when too large a share of the files is bad."""
        self.report.check(sum(source.found for source in self.sources), max_bad_share)


def parse_source(text: str, key: str = "data.train_sources") -> dict[str, Any]:
    """Read KIND:PATH[*WEIGHT], of TFDS KIND:PATH[::NAME]@SPLIT[*WEIGHT].

    Examples: `photos:/data/clean`, `pairs:/data/rain*0.5`, `tfds_pairs:/data/tfds@train`,
    `tfds_photos:/data/tfds::coco/2017@train`, and of pairs with other names than LQ and GT
    `pairs:/data/gopro/train?lq=*/blur&gt=*/sharp&class_name=blur`; see `pairs.PairFolder` for the
    keys lq, gt, class_name, gt_rename (PATTERN->REPLACEMENT) and centre_crop (yes).

    Args:
      text: an entry of the configuration.
      key: whose it is.

    Returns:
      {"kind", "path"} and, where given, the keys, "name", "split", "weight"; see `open_source`.

    Raises:
      UserError: another form.
    """
    match = (_TFDS if text.startswith("tfds_") else _SPEC).fullmatch(text)
    if match is None:
        raise UserError(f"config.{key}: {text!r} is not of the form {_FORMS}.")
    spec = {part: value for part, value in match.groupdict().items() if value is not None}
    for pair in filter(None, spec.pop("keys", "").split("&")):
        name, _, value = pair.partition("=")
        spec[name] = value
    if "gt_rename" in spec:
        pattern, arrow, replacement = spec["gt_rename"].partition("->")
        if not arrow:
            raise UserError(
                f"config.{key}: {text!r}: gt_rename={spec['gt_rename']}: expected "
                "PATTERN->REPLACEMENT, such as gt_rename=_GT->_hazy."
            )
        spec["gt_rename"] = pattern, replacement
    if "centre_crop" in spec:
        if spec["centre_crop"] not in _YES_NO:
            raise UserError(
                f"config.{key}: {text!r}: centre_crop={spec['centre_crop']}: expected yes or no."
            )
        spec["centre_crop"] = _YES_NO[spec["centre_crop"]]
    if "weight" in spec:
        spec["weight"] = _weight(spec["weight"], f"config.{key}: {text!r}")
    return spec


def folder_or_source(text: str, key: str) -> dict[str, Any]:
    """Read what may be a source, see `parse_source`, or a folder of photos by its path alone.

    A folder may be called like a kind of source: only a colon makes it one.
    """
    kind, colon, _ = text.partition(":")
    if colon and kind in KINDS:
        return parse_source(text, key)
    return {"kind": "photos", "path": text}


def _weight(text: str, where: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise UserError(
            f"{where}: its weight {text!r} is no number above 0; write *0.5, for example, or leave "
            "the source out."
        )
    return weight


def mixture_of(config: ConfigDict) -> Mixture:
    """Return how a configuration degrades clean photos.

    Raises:
      UserError: shares, weights or severities that do not fit each other.
    """
    data = config.data
    return Mixture(
        names=tuple(data.degradations),
        weights=tuple(data.weights),
        max_mixed=data.max_mixed,
        severity=tuple(data.severity),
        mix_share=data.mix_share,
        clean_share=data.clean_share,
    )


def _weights(specs: Sequence[Mapping[str, Any]], train_folder: str) -> tuple[float, ...]:
    """Return the weight of every source; () where none has one.

    Args:
      specs: of all sources, that of `train_folder` the first.
      train_folder: a folder of photos, which can have no weight; "" for none.

    Raises:
      UserError: some have one, and some have none.
    """
    given = [spec["weight"] for spec in specs if "weight" in spec]
    if given and len(given) < len(specs):
        if train_folder:
            raise UserError(
                "config.data.train_sources gives weights, and config.data.train_folder has none; "
                f"write that as photos:{train_folder}*NUMBER in train_sources, and leave "
                "train_folder empty."
            )
        lacking = next(spec for spec in specs if "weight" not in spec)
        raise UserError(
            "config.data.train_sources: give every source a weight (*NUMBER), or none; "
            f"{lacking['kind']}:{lacking['path']} has none."
        )
    return tuple(given)


def open_training_data(config: ConfigDict, report_path: pathlib.Path | None) -> TrainingData:
    """Open every source that a configuration names.

    Args:
      config: a whole configuration; reads `data`.
      report_path: file in which all processes of this machine list bad files.

    Raises:
      UserError: no source is named, or one cannot be opened.
    """
    data = config.data
    specs = [parse_source(text) for text in data.train_sources]
    if data.train_folder:
        specs.insert(0, {"kind": "photos", "path": data.train_folder})
    if not specs:
        raise UserError(
            "config.data.train_folder and config.data.train_sources are empty; name a folder of "
            "clean photos."
        )
    weights = _weights(specs, data.train_folder)
    report = SkipReport(report_path)
    report.clear()
    sources = tuple(
        open_source(
            spec,
            min_size=data.crop_size,
            cache_mb=data.cache_mb // len(specs),  # what is kept is kept of all together
            report=report,
            classes=tuple(data.degradations) if "pairs" in spec["kind"] else None,
        )
        for spec in specs
    )
    return TrainingData(sources, weights, report, fingerprint(sources))
