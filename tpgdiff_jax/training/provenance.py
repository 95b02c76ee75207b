"""What a run was started with: command, code, packages, devices; one line per start."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

import tpgdiff_jax
from tpgdiff_jax.reporting import json_lines

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "numpy",
)


def record_start(workdir: pathlib.Path) -> dict[str, Any]:
    """Append what this start is to `starts.jsonl`; the first process writes for all.

    Args:
      workdir: the run's folder.

    Returns:
      what was written: time (UTC), command, commit, dirty, versions, devices, processes, host.
    """
    row = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        **git_state(),
        "versions": versions(),
        "devices": _devices(),
        "processes": jax.process_count(),
        "host": platform.node(),
    }
    if jax.process_index() == 0:
        json_lines.append(workdir / "starts.jsonl", row)
    return row


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of what decides results; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    found["tpgdiff_jax"] = tpgdiff_jax.__version__
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state(folder: pathlib.Path | None = None) -> dict[str, Any]:
    """Return {"commit": hash, "dirty": whether the package's files differ from it}.

    Both are None where the package is no part of a clone, or git is not there.

    Args:
      folder: of the package; this one's by default.
    """
    folder = folder or pathlib.Path(tpgdiff_jax.__file__).parent
    unknown = {"commit": None, "dirty": None}
    # Installed into a virtual environment inside some other clone, the package is not tracked.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return unknown
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--", ".")
    return (
        unknown if commit is None or status is None else {"commit": commit, "dirty": status != ""}
    )


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    """Return what a git command prints, None if it fails for whatever reason."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
            # Reading must not lock a clone that someone works in.
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _devices() -> dict[str, int]:
    """Return how many devices of which kind all processes have together."""
    kinds = [device.device_kind for device in jax.devices()]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
