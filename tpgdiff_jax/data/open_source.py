"""Open any source of images from one entry of the configuration."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tpgdiff_jax.data.folders import here
from tpgdiff_jax.data.pair_list import PairList
from tpgdiff_jax.data.pairs import PairFolder
from tpgdiff_jax.data.records import RecordPairs, RecordPhotos
from tpgdiff_jax.data.skipped import SkipReport
from tpgdiff_jax.data.sources import PhotoFolder, Source
from tpgdiff_jax.data.tfds.sets import TfdsSource
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.copies import local
from tpgdiff_jax.stores.places import with_addresses
from tpgdiff_jax.stores.urls import is_url, named

# kind -> keys that must be there, keys that may be there ("kind" and "weight" always may).
_KEYS = {
    "photos": (("path",), ()),
    "pairs": (("path",), ("class_name", "lq", "gt", "gt_rename", "centre_crop")),
    "record_photos": (("path",), ()),
    "record_pairs": (("path",), ("class_name",)),
    "tfds_photos": (("path", "split"), ("name", "image_key", "name_key")),
    "tfds_pairs": (
        ("path", "split"),
        ("name", "lq_key", "gt_key", "label_key", "name_key", "recipe_key", "class_name"),
    ),
}
KINDS = tuple(_KEYS)


def open_source(
    spec: Mapping[str, Any],
    *,
    min_size: int = 1,
    cache_mb: int = 0,
    report: SkipReport | None = None,
    classes: Sequence[str] | None = None,
) -> Source:
    """Build a source from a configuration entry.

    Args:
      spec: {"kind": photos | pairs | record_photos | record_pairs | tfds_photos | tfds_pairs,
        "path": folder or files (TFDS: the data_dir)}.  TFDS sets also need "split"; "name" is
        "restoration_photos" or "restoration_pairs" unless given, and their features may be named
        ("image_key", "lq_key" ...).  Pairs may have a "class_name" and others of
        `PairFolder`'s keys; where their path is a text file, see `PairList`.
        "weight" (above 0) is for whoever mixes sources.
      min_size: smallest usable height and width in pixels.
      cache_mb: decoded images kept in memory, in MiB.
      report: where bad files are listed; None starts a new list.
      classes: names of the labels of a run, which every source of pairs keeps to.  None: its own.

    Raises:
      UserError: unknown kind or key, a missing key, or whatever the source finds wrong.
    """
    spec = dict(spec.items())  # also takes a ConfigDict
    kind = spec.pop("kind", None)
    if kind not in _KEYS:
        raise UserError(f"Data source of kind={kind!r}; expected one of {', '.join(_KEYS)}.")
    weight = spec.pop("weight", 1.0)
    if not weight > 0:
        raise UserError(f"Data source {kind} {spec.get('path')!r}: weight={weight} is not above 0.")
    needed, optional = _KEYS[kind]
    missing = [key for key in needed if not spec.get(key)]
    unknown = sorted(spec.keys() - {*needed, *optional})
    if missing or unknown:
        problem = f"lacks {missing[0]!r}" if missing else f"has an unknown key {unknown[0]!r}"
        raise UserError(
            f"Data source {spec} of kind {kind!r} {problem}; needed: {', '.join(needed)}; "
            f"optional: {', '.join(('weight', *optional))}."
        )
    is_address, spec["path"] = is_url(spec["path"]), str(_path_here(kind, spec["path"]))
    is_list = kind == "pairs" and os.path.isfile(spec["path"])
    if is_list:
        _check_list(spec, is_address)
    common = {"min_size": min_size, "cache_mb": cache_mb, "report": report}
    if kind.startswith("tfds_"):
        path = spec.pop("path")
        kind = kind.removeprefix("tfds_")
        name = spec.pop("name", f"restoration_{kind}")
        return TfdsSource(name, data_dir=path, kind=kind, classes=classes, **spec, **common)
    if kind.endswith("pairs"):
        common["classes"] = classes
    constructors: dict[str, Callable[..., Source]] = {
        "photos": PhotoFolder,
        "pairs": PairList if is_list else PairFolder,
        "record_photos": RecordPhotos,
        "record_pairs": RecordPairs,
    }
    return constructors[kind](spec.pop("path"), **spec, **common)


def _path_here(kind: str, path: str) -> pathlib.Path:
    """Return where the files of a source lie on this machine; those of an address are copied."""
    if kind.startswith("record_") and is_url(path):
        return local(path)
    refuse_address(kind, path)
    return here(path)


def _check_list(spec: Mapping[str, Any], is_address: bool) -> None:
    """Raise UserError where a list of pairs comes with what only folders have."""
    where = f"Data source pairs:{with_addresses(spec['path'])}"
    if is_address:
        raise UserError(
            f"{where} is no folder: a list of pairs and what it names are read from this machine; "
            "copy both."
        )
    if of_folders := [key for key in ("lq", "gt", "gt_rename") if key in spec]:
        raise UserError(f"{where} is a list, which names both sides; leave {of_folders[0]} out.")


def refuse_address(kind: str, path: str) -> None:
    """Raise UserError for a source that is not read from a store."""
    if kind.startswith("tfds_") and is_url(path):
        raise UserError(
            f"Data source {kind}:{named(path)}: sets of TFDS are read from local folders; copy it, "
            "or name photos:, pairs: or record_...: there."
        )
