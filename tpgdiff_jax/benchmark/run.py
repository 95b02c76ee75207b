"""A benchmark from configuration to report: what --mode=eval does with published weights."""

import csv
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

import tpgdiff_jax
from tpgdiff_jax.benchmark.claiming import claim
from tpgdiff_jax.benchmark.finding import AbsentSetError, open_set
from tpgdiff_jax.benchmark.job import ROWS, Job, image_path, row_log_of
from tpgdiff_jax.benchmark.report import html
from tpgdiff_jax.benchmark.report.pictures import Picture, chosen_pictures
from tpgdiff_jax.benchmark.report.summary import add_set_scores, summarise
from tpgdiff_jax.benchmark.report.tables import markdown
from tpgdiff_jax.benchmark.rows import Row, is_kept, key_of, locked, read_rows
from tpgdiff_jax.benchmark.sets import Item, OpenSet
from tpgdiff_jax.benchmark.settings import Settings, Variant
from tpgdiff_jax.benchmark.stamps import read_stamps
from tpgdiff_jax.benchmark.work import Predictions, Task
from tpgdiff_jax.benchmark.worker import System
from tpgdiff_jax.data.images import read_rgb
from tpgdiff_jax.distributed import peers
from tpgdiff_jax.evaluation.protocols import centre_cropped
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable, replacing, write_text
from tpgdiff_jax.stores.places import shown

# A file's name may hold bytes that are no text; reports show these as \udcXX.
_TEXT = {"encoding": "utf-8", "errors": "backslashreplace"}


def open_sets(settings: Settings) -> tuple[list[OpenSet], dict[str, str]]:
    """Open the sets that are there.

    Returns:
      the sets, and name -> why it is absent and where to get it.

    Raises:
      UserError: not one set has an image.
    """
    found, absent = [], {}
    for spec in settings.specs:
        try:
            found.append(open_set(spec, settings.root))
        except AbsentSetError as error:
            absent[spec.name] = str(error)
            logging.warning("Test set %s is absent: %s", spec.name, error)
            continue
        for remark in found[-1].remarks:
            logging.warning("Test set %s: %s", spec.name, remark)
        for file, reason in found[-1].skipped.items():
            logging.warning("Skipping %s: %s", printable(file), reason)
    if not any(opened.items for opened in found):
        listed = "".join(f"\n  {name}: {reason}" for name, reason in absent.items())
        raise UserError(
            f"config.benchmark.root={str(settings.root)!r}: none of the test sets "
            f"{', '.join(spec.name for spec in settings.specs)} can be scored.{listed}"
        )
    return found, absent


def run_benchmark(
    settings: Settings,
    folder: pathlib.Path,
    mesh: Mesh,
    *,
    system: System | None = None,
    predictions: pathlib.Path | None = None,
    weights: str = "",
    title: str = "",
    share: tuple[int, int] | None = None,
    merge: bool = False,
) -> dict[str, Any] | None:
    """Score a system, or somebody's outputs, on every set, and write the report.

    Args:
      settings: what to do.
      folder: for lines, images and report; all processes must see it.
      mesh: the devices of all processes.
      system: what restores, or
      predictions: a folder of outputs.
      weights: fingerprint of the system.
      title: what the report calls the system.
      share: (index, count): score this part of the images alone, and write no report.
      merge: score nothing, and write the report of what all shares have scored.

    Returns:
      the summary, in process 0; None in others, and of a share.

    Raises:
      UserError: nothing to score, a folder of another job, or shares to merge are not done.
    """
    sets, absent = open_sets(settings)
    found = predictions and Predictions(predictions, [opened.spec.name for opened in sets])
    variants = [Variant()]
    if system is not None:
        own = system.config.eval
        variants = settings.variants(own.sampler, own.steps, own.passes)
    of = {"weights": weights} if system else {"predictions": shown(predictions)}
    if system is not None and not merge:  # the numbers' type differs from machine to machine
        precision = jax.config.jax_default_matmul_precision or "default"
        of |= {"dtype": system.config.model.dtype, "matmul_precision": str(precision)}
    if jax.process_index() == 0:
        claim(folder, of | settings.identity(), sets)
    tasks = [
        Task(item, variant) for opened in sets for variant in variants for item in opened.items
    ]
    _wait_for_all("claimed")  # to `claim`, the others' locks would be foreign files
    with locked(folder / ROWS, row_log_of(share)):
        if merge:
            _check_complete(folder, tasks, found)
        else:
            Job(settings, folder, mesh, system, found, share).run(tasks)
        _wait_for_all("scored")
        # The others have done their part.  Leaving as ends of one job they would wait minutes for
        # process 0, then fail: whole sets' scores and pictures can take longer.
        peers.part()
        if share or jax.process_index() != 0:
            return None
        facts = of | settings.identity() | _circumstances(mesh, title, settings)
        if system is not None:
            facts["classification"] = system.config.priors.classification
        rows = _current_rows(folder, tasks, found)
        summary = summarise(rows, sets, absent, variants, settings, facts)
        _report(settings, folder, summary, rows, sets, found)
    return summary


def _check_complete(folder: pathlib.Path, tasks: Sequence[Task], found: Predictions | None) -> None:
    """Raise UserError where an image was neither scored nor found to be bad."""
    keys = [task.key for task in tasks]
    rows = read_rows(folder / ROWS, dict(zip(keys, read_stamps(tasks, found), strict=True)))
    missing = [key for key in keys if key not in rows]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(keys)} images have no score yet; the first is "
            f"{printable(' '.join(missing[0]))}. Run their --share=I/N, or this command without "
            "--merge, which scores what is missing."
        )


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"benchmark: {what}")


def _report(
    settings: Settings,
    folder: pathlib.Path,
    summary: dict[str, Any],
    rows: Sequence[Row],
    sets: Sequence[OpenSet],
    found: Predictions | None,
) -> None:
    """Add the scores of whole sets to a summary, choose pictures, write all reports."""

    unkept = {key_of(row) for row in rows if not is_kept(row)}

    def path_of(variant: str, item: Item) -> pathlib.Path | None:
        if found:
            return found.path(item)
        key = variant, item.spec.name, item.name
        path = image_path(folder, *key)
        return path if key not in unkept and path.is_file() else None

    def restored(variant: str, item: Item) -> np.ndarray | None:
        path = path_of(variant, item)
        return path and centre_cropped(item.protocol, read_rgb(path))

    add_set_scores(summary, rows, sets, settings, path_of)
    first = summary["variants"][0]["name"]
    pictures = chosen_pictures(rows, sets, first, restored, settings.seed)
    write_reports(folder, summary, rows, pictures)


def _current_rows(
    folder: pathlib.Path, tasks: Sequence[Task], found: Predictions | None
) -> list[Row]:
    """Read the tasks' lines, those of the files as they are now; say where there is none."""
    keys = [task.key for task in tasks]
    rows = read_rows(folder / ROWS, dict(zip(keys, read_stamps(tasks, found), strict=True)))
    for key in keys:
        if key not in rows:
            names = dict(zip(("variant", "set", "image"), key, strict=True))
            why = "its files changed while the job ran; the same command scores it again"
            logging.warning("%s, %s: %s", key[1], printable(key[2]), why)
            rows[key] = names | {"error": why}
    return [rows[key] for key in sorted(rows)]


def _circumstances(mesh: Mesh, title: str, settings: Settings) -> dict[str, Any]:
    device = mesh.devices.flat[0]
    return {
        "title": title,
        "version": tpgdiff_jax.__version__,
        "date": datetime.date.today().isoformat(),
        "devices": f"{mesh.size} x {device.device_kind} ({device.platform})",
        "processes": jax.process_count(),
        "batch_size": settings.batch_size,
    }


def write_reports(
    folder: pathlib.Path,
    summary: Mapping[str, Any],
    rows: Sequence[Row],
    pictures: Sequence[Picture],
) -> None:
    """Write summary.json, scores.csv, report.md and report.html."""
    write_text(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False) + "\n")
    _write_csv(folder / "scores.csv", rows)
    write_text(folder / "report.md", markdown(summary))
    write_text(folder / "report.html", html.page(summary, rows, pictures))


def _write_csv(path: pathlib.Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as temporary, temporary.open("w", newline="", **_TEXT) as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()}
            )
