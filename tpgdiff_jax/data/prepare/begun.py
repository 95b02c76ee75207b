"""A folder says, while it is being filled, with what: the same command goes on, another may not."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import logging

import tpgdiff_jax
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.stores.copies import stamp_of

_NOTE = ".begun.json"


def check_empty(output: pathlib.Path) -> None:
    """Raise UserError unless a folder is new or holds nothing but hidden files.

    Those are what a killed program left, or what desktops leave everywhere.
    """
    if output.is_file() or _holds_anything(output):
        raise UserError(f"--output={output} holds files already; choose an empty or a new folder.")


def begin(output: pathlib.Path, photos: PhotoFolder, settings: Mapping[str, Any]) -> None:
    """Begin to fill a folder, or go on where the same was begun.

    Args:
      output: the folder.
      photos: what it is made of; one that has changed since is another one.
      settings: what else decides its content, as JSON can hold it.

    Raises:
      UserError: it holds other files, or a part of something else.
    """
    made_of = {"version": tpgdiff_jax.__version__, "photos": _identity(photos), **settings}
    note = output / _NOTE
    if not note.is_file() or not _holds_anything(output):
        check_empty(output)
        write_text(note, json.dumps(made_of))
        return
    before = json_text.read_object(note, f"remove {output}, then start again")
    wanted = json.loads(json.dumps(made_of))
    if other := sorted(key for key in wanted if before.get(key) != wanted[key]):
        raise UserError(
            f"--output={output} was begun with other {', '.join(other)}; choose a new folder, or "
            "remove it."
        )
    logging.info("%s was begun earlier; what is there already is kept.", output)


def end(output: pathlib.Path) -> None:
    """Note that a folder is complete."""
    (output / _NOTE).unlink()


def _holds_anything(folder: pathlib.Path) -> bool:
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(base, name))]
        if links or not all(name.startswith(".") for name in names):
            return True
    return False


def _identity(photos: PhotoFolder) -> str:
    lines = [f"{name} {stamp_of(photos.folder / name)}" for name in photos.names]
    return hashlib.sha1("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
