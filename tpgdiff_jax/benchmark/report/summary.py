"""From lines per image to means per set, averages per group, and the confusion matrix."""

import collections
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from tpgdiff_jax.benchmark import program
from tpgdiff_jax.benchmark.presets import GROUPS
from tpgdiff_jax.benchmark.rows import Row, key_of, number
from tpgdiff_jax.benchmark.sets import Item, OpenSet
from tpgdiff_jax.benchmark.settings import Settings, Variant
from tpgdiff_jax.data.images import read_rgb
from tpgdiff_jax.evaluation import optional, perceptual
from tpgdiff_jax.evaluation.protocols import PROTOCOLS, SCORES, centre_cropped

PER_IMAGE = (*SCORES, *perceptual.NAMES)
_COUNTS = ("images", "counts", "identical")  # of a set's result: no scores


def means(rows: Sequence[Row]) -> dict[str, Any]:
    """Average every score of one set's images.

    An image that equals its truth has an infinite PSNR.  One of them would make the whole mean
    infinite, so they are counted and left out; the mean is infinite where all are equal.

    Returns:
      {"images": how many, score: mean, "counts": score -> how many images have it, of those
      scores that some images lack (too small ones have no LPIPS), "identical": score -> how many
      infinite ones are left out}; no counts where all have all, nothing identical where none is.
    """
    values = collections.defaultdict(list)
    for row in rows:
        for name in PER_IMAGE:
            for key in (name, f"input_{name}"):
                if key in row:
                    values[key].append(float(row[key]))
        for key in ("nfe", "seconds"):
            if key in row:
                values[key].append(row[key])
    found: dict[str, Any] = {"images": len(rows)}
    for key, many in values.items():
        finite = [value for value in many if math.isfinite(value)] or many
        found[key] = number(math.fsum(finite) / len(finite))
    counts = {key: len(many) for key, many in values.items() if len(many) < len(rows)}
    identical = {key: sum(map(math.isinf, many)) for key, many in values.items()}
    identical = {key: count for key, count in identical.items() if count}
    found |= {"counts": counts} if counts else {}
    return found | ({"identical": identical} if identical else {})


def summarise(
    rows: Sequence[Row],
    sets: Sequence[OpenSet],
    absent: Mapping[str, str],
    variants: Sequence[Variant],
    settings: Settings,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Gather what a report shows, as plain JSON data.

    Args:
      rows: of all processes.
      sets, absent: the sets that were found, and why others were not.
      variants: what was run.
      settings: what was asked for.
      facts: what else a reader must know of the job.
    """
    asked = {variant.name for variant in variants}
    truths = {found.spec.name: found.spec.degradation for found in sets}  # as it is called now
    good = [
        row | {"truth": truths[row["set"]]}
        for row in rows
        if "error" not in row and row["variant"] in asked
    ]
    results: dict[str, dict[str, Any]] = {variant.name: {} for variant in variants}
    for variant in variants:
        for found in sets:
            chosen = [
                row
                for row in good
                if (row["variant"], row["set"]) == (variant.name, found.spec.name)
            ]
            if chosen:
                results[variant.name][found.spec.name] = means(chosen)
    deep = tuple(name for name in settings.metrics if name in perceptual.NAMES)
    errors = [row for row in rows if "error" in row and row["variant"] in asked]
    described = {about["name"]: about for about in map(_describe, sets)}
    for name, about in described.items():
        about["failed"] = {
            f"{row['variant']}: {row['image']}": row["error"]
            for row in errors
            if row["set"] == name
        }
    return {
        "format": 1,
        "job": dict(facts),
        "variants": [
            {
                "name": v.name,
                "sampler": v.sampler,
                "steps": v.steps,
                "without": list(v.without),
                "ensemble": v.ensemble,
                "passes": v.passes,
            }
            for v in variants
        ],
        "sets": described,
        "absent": dict(absent),
        "results": results,
        "averages": {name: averages(result) for name, result in results.items()},
        "confusion": {v.name: confusion(good, v.name) for v in variants},
        "not_computed": _not_computed(deep, good, sets),
    }


def _not_computed(
    names: Sequence[str], rows: Sequence[Row], sets: Sequence[OpenSet]
) -> dict[str, str]:
    """Say which scores of images cannot be had here, or could not where images were scored."""
    found = program.load_networks(tuple(names))[1]
    paired = {opened.spec.name for opened in sets if opened.spec.layout != "unpaired"}
    for name in [name for name in names if name not in found]:
        lacking = sum(
            row["set"] in paired
            and name not in row
            and bool(program.scores_of((row["height"], row["width"]), [name]))
            for row in rows
        )
        if lacking:
            found[name] = (
                f"{lacking} of {len(rows)} images were scored where its package was missing; the "
                "same command, without --merge and with the package, scores them again"
            )
    return found


def _describe(found: OpenSet) -> dict[str, Any]:
    spec = found.spec
    return {
        "name": spec.name,
        "title": spec.title or spec.name,
        "degradation": spec.degradation,
        "layout": spec.layout,
        "protocol": spec.protocol,
        "protocol_text": PROTOCOLS[spec.protocol].describe(),
        "seed_rule": spec.seed_text(),
        "expected": spec.count,
        "found": len(found.items),
        "remarks": list(found.remarks),
        "skipped": dict(found.skipped),
    }


def averages(result: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Average a variant's sets, every set alike: `all`, and every group that is whole.

    Returns:
      group -> {"sets": names, score: mean}.  In `all` a score is averaged over the sets that have
      it; in a group it needs every set.  An infinite one, of a set whose images all equal their
      truth, is left out like a missing one.
    """
    found = {}
    for group, names in {"all": tuple(result), **GROUPS}.items():
        if not names or not set(names) <= result.keys():
            continue
        keys = dict.fromkeys(key for name in names for key in result[name] if key not in _COUNTS)
        found[group] = {"sets": list(names)}
        for key in keys:
            values = [float(result[name][key]) for name in names if key in result[name]]
            values = [value for value in values if math.isfinite(value)]
            if values and (group == "all" or len(values) == len(names)):
                found[group][key] = number(float(np.mean(values)))
    return found


def confusion(rows: Iterable[Row], variant: str) -> dict[str, dict[str, int]]:
    """Count what the classifier took each set's degradation for: truth -> predicted -> images."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for row in rows:
        if row["variant"] == variant and row.get("predicted") and row.get("truth"):
            counts[row["truth"]][row["predicted"]] += 1
    return {truth: dict(sorted(found.items())) for truth, found in sorted(counts.items())}


def add_set_scores(
    summary: dict[str, Any],
    rows: Sequence[Row],
    sets: Sequence[OpenSet],
    settings: Settings,
    path_of: Callable[[str, Item], pathlib.Path | None],
) -> None:
    """Add FID, NIQE and MUSIQ of each set where they can be had; else note why not.

    `not_computed` then says `set: why`, or only why where the score is to be had for no set.

    Args:
      summary: of `summarise`; changed.
      rows: of all processes.
      sets: the sets that were found.
      settings: names the metrics.
      path_of: (variant, item) -> file of the restored image; None where it is not kept.
    """
    done = {key_of(row) for row in rows if "error" not in row}
    for name in settings.metrics:
        if name not in optional.NAMES:
            continue
        score, why = _attempt(name, optional.load, name, settings.inception_weights)
        reasons = [why] if why else []
        for variant, result in summary["results"].items() if score else ():
            for found in sets:
                chosen = [i for i in found.items if (variant, found.spec.name, i.name) in done]
                if not chosen or (optional.needs_truth(name) and chosen[0].gt is None):
                    continue
                files = [path_of(variant, item) for item in chosen]
                pairs = _pairs(chosen, files, settings.seed)
                value, why = _attempt(name, _set_score, score, files, pairs)
                if why:
                    reasons.append(f"{found.spec.name}: {why}")
                else:
                    result[found.spec.name][name] = number(value)
        if reasons:
            summary["not_computed"][name] = "; ".join(dict.fromkeys(reasons))


def _pairs(
    items: Iterable[Item], files: Iterable[pathlib.Path], seed: int
) -> Iterator[optional.Pair]:
    """Yield restored and true images, both cut as PSNR sees them."""
    for item, file in zip(items, files, strict=True):
        yield centre_cropped(item.protocol, read_rgb(file)), item.load(seed)[1]


def _set_score(
    score: optional.Score, files: Sequence[pathlib.Path | None], pairs: Iterable[optional.Pair]
) -> float:
    if None in files:
        raise optional.NotComputedError("the restored images are not kept")
    return score(files, pairs)


def _attempt(name: str, function: Callable, *args: Any) -> tuple[Any, str]:
    """Call what runs another package; return its answer, or None and why there is none.

    An extra score must never cost a report that took days, whatever that package raises.
    """
    try:
        return function(*args), ""
    except optional.NotComputedError as error:
        return None, str(error)
    except Exception as error:
        logging.exception("%s cannot be computed.", name)
        return None, f"{type(error).__name__}: {error}"
