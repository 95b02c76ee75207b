"""ArrayRecord files, whatever their records hold: found, counted, opened and written.

The package takes names that are no text as bytes alone.
"""

import contextlib
import dataclasses
import glob
import importlib
import os
import pathlib
import types
from collections.abc import Sequence

from tpgdiff_jax.reporting.errors import UserError

_OPTIONS = "group_size:1"  # each record is readable by itself, and has its own checksum


def open_writer(path: str | os.PathLike) -> contextlib.closing:
    """Open an ArrayRecord file to write records (bytes) to; a context manager."""
    module = _array_record("array_record_module")
    return contextlib.closing(module.ArrayRecordWriter(os.fsencode(path), _OPTIONS))


def find(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str]:
    """Resolve a file, folder or pattern to the files it means, sorted.

    Raises:
      UserError: there is none.
    """
    if not isinstance(paths, str | os.PathLike):
        files = [os.fspath(path) for path in paths]
    elif os.path.isdir(paths):
        # Hidden ones are half-written, or a Mac's notes on others.
        found = pathlib.Path(paths).glob("*.array_record*")
        files = sorted(str(path) for path in found if not path.name.startswith("."))
    elif os.path.exists(paths):
        files = [os.fspath(paths)]
    else:
        files = sorted(glob.glob(os.fspath(paths)))
    missing = [file for file in files if not os.path.isfile(file)]
    if missing or not files:
        raise UserError(
            f"No ArrayRecord file {str(missing[0] if missing else paths)!r}; name a file, a "
            "pattern, or a folder of *.array_record files."
        )
    return files


def count(file: str) -> int:
    """Return how many records a file holds; reads its end alone.

    Raises:
      UserError: it is no such file, or incomplete.
    """
    try:
        reader = _array_record("array_record_module").ArrayRecordReader(os.fsencode(file))
        with contextlib.closing(reader):
            return reader.num_records()
    except (RuntimeError, UnicodeDecodeError) as error:
        # A message that quotes a name that is no text comes as the error of its decoding.
        is_text = isinstance(error, RuntimeError)
        why = error if is_text else error.object.decode(errors="backslashreplace")
        raise UserError(
            f"{file} is no ArrayRecord file or incomplete ({why}); write it anew."
        ) from error


def opened(files: Sequence[str], counts: Sequence[int]) -> Sequence[bytes]:
    """Open files as one sequence of records, each file with as many as it holds."""
    module = _array_record("array_record_data_source")
    return module.ArrayRecordDataSource(
        [_Part(os.fsencode(file), count, count) for file, count in zip(files, counts, strict=True)]
    )


@dataclasses.dataclass(frozen=True)
class _Part:
    """Which records of a file are meant, in the words of the package's `FileInstruction`."""

    filename: bytes
    take: int
    examples_in_shard: int
    skip: int = 0


def _array_record(module: str) -> types.ModuleType:
    try:
        return importlib.import_module(f"array_record.python.{module}")
    except ImportError as error:
        raise ImportError(
            "ArrayRecord files need the package array_record: pip install array_record"
        ) from error
