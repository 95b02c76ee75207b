"""Checksums of what a step holds: bits that fell over on a disk are damage, not other weights."""

import json
import os
import pathlib

from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.files import file_sha256

NAME = "checksums.json"


def write(step: str | os.PathLike) -> None:
    """Write the SHA-256 of every file of a step's items into its folder."""
    step = pathlib.Path(step)
    files = [path for path in step.glob("*/**/*") if path.is_file()]
    sums = {path.relative_to(step).as_posix(): file_sha256(path) for path in files}
    (step / NAME).write_text(json.dumps(sums, indent=1, sort_keys=True))


def verify(step: str | os.PathLike, item: str) -> str:
    """Say what of an item is not what was written.

    Args:
      step: its folder.
      item: name of a folder in it.

    Returns:
      "" if all is well, or if the step is of a version that wrote no checksums.
    """
    step = pathlib.Path(step)
    path = step / NAME
    if not path.exists():
        return ""
    try:
        for name, expected in json_text.loads(path.read_text()).items():
            if not name.startswith(f"{item}/"):
                continue
            if not (step / name).exists():
                return f"{name} is missing"
            if file_sha256(step / name) != expected:
                return f"{name} is not what was written (its checksum differs)"
    except (ValueError, AttributeError, OSError) as error:
        return f"{NAME}: {type(error).__name__}: {' '.join(str(error).split())}"
    return ""
