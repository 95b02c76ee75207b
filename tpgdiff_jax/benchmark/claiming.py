"""Whose folder it is: one job's, which goes on there with what it began with."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tpgdiff_jax.benchmark.sets import OpenSet
from tpgdiff_jax.reporting import json_text, locks
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import write_text

_IDENTITY = "job.json"
_CLAIMING = ".job.lock"
# What folders of older versions do not tell.
_NEWER = ("dtype", "matmul_precision")


def claim(folder: pathlib.Path, identity: Mapping[str, Any], sets: Sequence[OpenSet]) -> None:
    """Make a folder this job's, or go on with the job that is in it.

    Args:
      folder: of the job.
      identity: what must be the same when a job goes on.
      sets: sets may be added; one of the same name must be the same set.

    Raises:
      UserError: another job is in the folder (names what differs), or foreign files are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = locks.take(folder / _CLAIMING, folder, wait=True)  # shares may begin together
    try:
        _claim(folder, identity, sets)
    finally:
        if lock is not None:
            lock.release()


def _claim(folder: pathlib.Path, identity: Mapping[str, Any], sets: Sequence[OpenSet]) -> None:
    path = folder / _IDENTITY
    old: dict[str, Any] = {}
    specs = {opened.spec.name: _plain_spec(opened) for opened in sets}
    if path.is_file():
        remedy = "choose another --output, or remove the folder"
        old = json_text.read_object(path, remedy)
        if not isinstance(old.get("sets"), dict):
            raise UserError(f"{path} is damaged (it has no sets); {remedy}.")
        known = {key: identity[key] for key in identity if key in old or key not in _NEWER}
        differing = [key for key in known if old.get(key) != known[key]]
        # Older jobs also say what degraded a set, which decides no score.
        before = {
            name: {key: value for key, value in spec.items() if key != "degradation"}
            for name, spec in old["sets"].items()
        }
        differing += [
            f"{key} of {name}"
            for name, spec in specs.items()
            if name in before
            for key in {**before[name], **spec}
            if before[name].get(key) != spec.get(key)
        ]
        if differing:
            raise UserError(
                f"{folder} holds the results of another job; it differs in {', '.join(differing)}. "
                "Choose another --output."
            )
        specs = old["sets"] | specs
    elif any(map(_is_foreign, folder.iterdir())):
        raise UserError(f"{folder} holds other files; choose an empty --output.")
    text = json.dumps({**old, **identity, "sets": specs}, indent=2) + "\n"
    is_said = path.is_file() and path.read_bytes() == text.encode()
    if not is_said:  # else left alone: a job that runs may be reading it
        write_text(path, text)


def _is_foreign(path: pathlib.Path) -> bool:
    """Tell whether a file is none of a job that has just begun, here or in another process."""
    return not path.name.startswith((".", "crash_process_"))


def _plain_spec(opened: OpenSet) -> dict[str, Any]:
    """Return what decides which files a set's scores belong to, and how they come about."""
    where = ("folder", "layout", "lq", "gt", "gt_rename")
    how = ("sigma", "recipe", "seed_rule", "protocol")
    fields = {name: getattr(opened.spec, name) for name in (*where, *how)}
    for name in ("jpeg_quality", "centre_crop"):
        if value := getattr(opened.spec, name):  # else left out: folders of older jobs go on
            fields[name] = value
    return json.loads(json.dumps(fields))  # as it will be read again: tuples become lists
