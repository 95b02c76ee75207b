"""ArrayRecord files, whatever their records hold: found, counted, opened and written."""

import contextlib
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
    return contextlib.closing(module.ArrayRecordWriter(os.fspath(path), _OPTIONS))


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
        reader = _array_record("array_record_module").ArrayRecordReader(file)
        with contextlib.closing(reader):
            return reader.num_records()
    except RuntimeError as error:
        raise UserError(
            f"{file} is no ArrayRecord file or incomplete ({error}); write it anew."
        ) from error


def opened(files: Sequence[str], counts: Sequence[int]) -> Sequence[bytes]:
    """Open files as one sequence of records, each file with as many as it holds."""
    module = _array_record("array_record_data_source")
    return module.ArrayRecordDataSource(
        [f"{file}[0:{count}]" for file, count in zip(files, counts, strict=True)]
    )


def _array_record(module: str) -> types.ModuleType:
    try:
        return importlib.import_module(f"array_record.python.{module}")
    except ImportError as error:
        raise ImportError(
            "ArrayRecord files need the package array_record: pip install array_record"
        ) from error
