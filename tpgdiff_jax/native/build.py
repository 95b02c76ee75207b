"""Compile the C++ that calls oneDNN; once, into the user's cache.

The library is named after all that went into it, and written whole: processes may compile at the
same time, and each then finds a usable file.  A wheel with compiled code would have to be built for
each version of jaxlib, whose interface it uses; the compiler takes seconds, once.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.resources
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jax
import jaxlib

from tpgdiff_jax.user_cache import user_cache

INSTALL = "pip install 'tpgdiff_jax[cpu]'"
PACKAGES = ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")
_LIBRARY = "libdnnl.so.3"
_FLAGS = ("-O2", "-std=c++17", "-shared", "-fPIC", "-w")
_COMPILERS = ("g++", "c++", "clang++")
_TIMEOUT = 300  # seconds; it takes about five
_DIGEST = hashlib.sha256().digest_size


class MissingError(Exception):
    """oneDNN cannot be used here; the text says what is missing and how to get it."""


@dataclasses.dataclass(frozen=True)
class OneDNN:
    """An installation of oneDNN: its version, its library and the folder of its headers."""

    version: str
    library: pathlib.Path
    headers: pathlib.Path


def find_onednn() -> OneDNN:
    """Return the oneDNN of the environment's packages, or else the system's.

    Raises:
      MissingError: there is none, or an old one, or one without headers.
    """
    libraries = [folder / _LIBRARY for folder in _folders("lib")]
    headers = [folder / "oneapi/dnnl/dnnl_version.h" for folder in _folders("include")]
    library = next((path for path in libraries if path.is_file()), None)
    header = next((path for path in headers if path.is_file()), None)
    if library is None or header is None:
        part = f"library ({_LIBRARY})" if library is None else "headers (oneapi/dnnl)"
        raise MissingError(f"oneDNN 3 or its {part} is not installed: {INSTALL}")
    numbers = dict(re.findall(r"#define DNNL_VERSION_(\w+)\s+(\d+)", header.read_text()))
    version = ".".join(numbers.get(part, "?") for part in ("MAJOR", "MINOR", "PATCH"))
    if not version.startswith("3."):
        raise MissingError(f"the headers {header.parent} are those of oneDNN {version}: {INSTALL}")
    return OneDNN(version, library, header.parents[2])


def _folders(kind: str) -> list[pathlib.Path]:
    """Return where files of a kind ("lib" or "include") may lie, the likeliest first."""

    def is_kind(file: importlib.metadata.PackagePath) -> bool:
        return kind in file.parts or (kind == "lib" and file.name == _LIBRARY)

    folders = [pathlib.Path(sys.prefix) / kind]
    for package in PACKAGES:  # also where they were installed beside another interpreter
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        parts = [file for file in files if is_kind(file)]
        folders += [pathlib.Path(file.locate()).resolve().parent for file in parts[:1]]
    return [*folders, pathlib.Path("/usr/local") / kind, pathlib.Path("/usr") / kind]


def library_path(onednn: OneDNN) -> pathlib.Path:
    """Return where the compiled library lies, or will lie."""
    digest = hashlib.sha256()
    for part in (*map(str, _FLAGS), str(onednn.library), str(onednn.headers)):
        digest.update(part.encode() + b"\0")
    for source in _sources():
        digest.update(source.read_bytes())
    versions = f"jaxlib-{jaxlib.__version__}-onednn-{onednn.version}"
    return user_cache() / "native" / f"calls-{versions}-{digest.hexdigest()[:16]}.so"


def _sources() -> list[pathlib.Path]:
    folder = pathlib.Path(str(importlib.resources.files("tpgdiff_jax.native") / "source"))
    return sorted(folder.iterdir())


def is_whole(path: pathlib.Path) -> bool:
    """Tell whether a library is as `compile_library` wrote it; a damaged one could crash us."""
    data = path.read_bytes()
    return hashlib.sha256(data[:-_DIGEST]).digest() == data[-_DIGEST:]


def compile_library(onednn: OneDNN, path: pathlib.Path) -> None:
    """Compile the library and put it at `path`, whole, its checksum at its end.

    Raises:
      MissingError: the folder cannot be written, no compiler is found, or it fails.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise MissingError(f"no C++ compiler is found ({', '.join(_COMPILERS)}); install g++")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=path.parent) as folder:
            made = pathlib.Path(folder) / path.name
            _run(_command(compiler, onednn, made))
            data = made.read_bytes()
            made.write_bytes(data + hashlib.sha256(data).digest())  # loaders ignore what follows
            os.replace(made, path)
    except OSError as error:
        raise MissingError(f"{path.parent} cannot be written: {error}") from error


def _command(compiler: str, onednn: OneDNN, output: pathlib.Path) -> list[str]:
    source = next(path for path in _sources() if path.suffix == ".cc")
    folders = (jax.ffi.include_dir(), onednn.headers)
    return [
        *compiler.split(),
        *_FLAGS,
        *(f"-I{folder}" for folder in folders),
        str(source),
        "-o",
        str(output),
        str(onednn.library),
        f"-Wl,-rpath,{onednn.library.parent}",
    ]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"the C++ compiler {command[0]} cannot be run: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise MissingError(f"the C++ compiler {command[0]} failed: {lines[0]}")
