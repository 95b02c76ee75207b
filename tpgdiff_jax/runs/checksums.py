"""Checksums of what a step holds: bits that fell over on a disk are damage, not other weights."""

import hashlib
import json

from etils import epath

NAME = "checksums.json"


def write(step: epath.Path) -> None:
    """Write the SHA-256 of every file of a step's items into its folder."""
    sums = {}
    for item in step.iterdir():
        if item.is_dir():
            sums |= {name: _sha256(path) for name, path in _files(item, f"{item.name}/").items()}
    (step / NAME).write_text(json.dumps(sums, indent=1, sort_keys=True))


def verify(step: epath.Path, item: str) -> str:
    """Say what of an item is not what was written.

    Args:
      step: its folder.
      item: name of a folder in it.

    Returns:
      "" if all is well, or if the step is of a version that wrote no checksums.
    """
    path = step / NAME
    if not path.exists():
        return ""
    try:
        for name, expected in json.loads(path.read_text()).items():
            if not name.startswith(f"{item}/"):
                continue
            if not (step / name).exists():
                return f"{name} is missing"
            if _sha256(step / name) != expected:
                return f"{name} is not what was written (its checksum differs)"
    except (ValueError, AttributeError, OSError) as error:
        return f"{NAME}: {type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _files(folder: epath.Path, prefix: str) -> dict[str, epath.Path]:
    """Return {prefix + path below the folder: file}."""
    found = {}
    for path in folder.iterdir():
        if path.is_dir():
            found |= _files(path, f"{prefix}{path.name}/")
        else:
            found[prefix + path.name] = path
    return found


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()
