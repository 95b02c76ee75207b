"""Restore many files: resumable, nothing half written, every bad file listed."""

import dataclasses
import glob
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm
from absl import logging
from PIL import Image

from tpgdiff_jax.data.images import EXTENSIONS, UnreadableImageError, open_image, write_image
from tpgdiff_jax.data.sources import image_names
from tpgdiff_jax.inference.restore import Restorer

LOG_NAME = "restored.jsonl"


@dataclasses.dataclass(frozen=True)
class Task:
    """One file to restore and where its result goes."""

    source: pathlib.Path
    target: pathlib.Path


@dataclasses.dataclass
class Summary:
    """What a job did.

    Attributes:
      done: files restored now.
      present: files whose result was there already.
      failed: file -> why it could not be restored.
    """

    done: int = 0
    present: int = 0
    failed: dict[str, str] = dataclasses.field(default_factory=dict)


def plan(inputs: Sequence[str], output: pathlib.Path, suffix: str = ".png") -> list[Task]:
    """List what is to be restored; names and sub-folders are kept.

    Args:
      inputs: files, folders (searched with their sub-folders) or patterns such as `photos/*.jpg`.
      output: the folder results go to.
      suffix: of the results; decides their format.

    Raises:
      ValueError: an input that matches nothing, an unknown format, or two files with one result.
    """
    if suffix.lower() not in EXTENSIONS:
        raise ValueError(f"--format={suffix!r}: expected one of {', '.join(EXTENSIONS)}.")
    tasks: dict[pathlib.Path, Task] = {}
    for text in inputs:
        for root, name in _files(text):
            task = Task(root / name, output / pathlib.Path(name).with_suffix(suffix))
            other = tasks.setdefault(task.target, task)
            if other.source != task.source:
                raise ValueError(
                    f"{other.source} and {task.source} would both become {task.target}; "
                    "restore them into different folders."
                )
    return list(tasks.values())


def _files(text: str) -> Iterator[tuple[pathlib.Path, str]]:
    """Yield (folder, name within it) of the files an input means."""
    path = pathlib.Path(text)
    if path.is_file():
        yield path.parent, path.name
        return
    if path.is_dir():
        found = image_names(path)
        if not found:
            raise ValueError(f"--input={text}: the folder holds no image files.")
        yield from ((path, name) for name in found)
        return
    matches = sorted(name for name in glob.glob(text, recursive=True) if os.path.isfile(name))
    if not matches:
        raise ValueError(f"--input={text} is no file, no folder, and matches nothing.")
    yield from ((pathlib.Path(name).parent, pathlib.Path(name).name) for name in matches)


def run(
    restorer: Restorer,
    tasks: Sequence[Task],
    output: pathlib.Path,
    *,
    options: dict[str, Any],
    weights: str,
    batch_size: int = 4,
) -> Summary:
    """Restore files; those whose result is there already are left alone.

    Args:
      restorer: the system.
      tasks: of `plan`.
      output: where `restored.jsonl` goes: a line per image with its size, seconds, predicted
        degradation and the options.
      options: `steps`, `sampler`, `seed` of `Restorer.__call__`.
      weights: what the log calls the weights, e.g. their fingerprint.
      batch_size: files that are read and restored together.
    """
    summary = Summary()
    waiting = [task for task in tasks if not task.target.exists()]
    summary.present = len(tasks) - len(waiting)
    output.mkdir(parents=True, exist_ok=True)
    with (
        (output / LOG_NAME).open("a") as log,
        tqdm.tqdm(total=len(waiting), unit="image", disable=not sys.stderr.isatty()) as bar,
    ):
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            for row in _restore(restorer, batch, options, summary):
                log.write(json.dumps({**row, **options, "weights": weights}) + "\n")
            log.flush()
            bar.update(len(batch))
            if not sys.stderr.isatty():
                logging.info("%d of %d images", min(start + batch_size, len(waiting)), len(waiting))
    return summary


def _restore(restorer, batch, options, summary: Summary) -> Iterator[dict[str, Any]]:
    usable, pictures = [], []
    for task in batch:
        try:
            picture = open_image(task.source)
        except UnreadableImageError as error:
            summary.failed[str(task.source)] = error.reason
            logging.warning("Skipping %s: %s", task.source, error.reason)
            continue
        usable.append(task)
        pictures.append(picture)
    if not usable:
        return
    started = time.perf_counter()
    results = restorer(pictures, names=[task.source.name for task in usable], **options)
    seconds = (time.perf_counter() - started) / len(usable)
    for task, picture, restored in zip(usable, pictures, results, strict=True):
        result = np.asarray(restored)
        write_image(task.target, _for_format(result, task.target.suffix.lower()))
        summary.done += 1
        yield {
            "input": str(task.source),
            "output": str(task.target),
            "height": result.shape[0],
            "width": result.shape[1],
            "seconds": round(seconds, 3),
            "degradation": next(iter(restorer.degradations(picture).items()), None),
        }


def _for_format(image: np.ndarray, suffix: str) -> np.ndarray:
    """Leave out what a format cannot hold: JPEG and BMP have neither alpha nor 16 bit."""
    if suffix in (".png", ".tif", ".tiff"):
        return image
    if image.dtype == np.uint16:
        image = np.round(image / 257).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] == 4 and suffix != ".webp":
        image = np.asarray(Image.fromarray(image).convert("RGB"))
    return image
