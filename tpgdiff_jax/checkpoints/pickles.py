"""PyTorch files, read without running any code that they may carry.

They are pickles.  PyTorch's weights-only loader runs nothing of them; what it cannot know is said
here: which code a file asks for, and that it would unpack to more than any weights.
"""

import argparse
import importlib.util
import io
import pathlib
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from tpgdiff_jax.reporting.errors import UserError

# An archive holds at most so many times its own bytes.
MOST_UNPACKED = 8
_MOST_PARTS = 10**6  # of a tuple, those of the tuples in it included
_PICKLES = 5  # of a file of the older form
_OPERATIONS = {operation.name: operation for operation in pickletools.opcodes}


def read_pickle(path: pathlib.Path) -> Any:
    """Read a PyTorch file without running any code that it may carry.

    Args:
      path: of the file, an archive or of the older form.

    Raises:
      UserError: PyTorch is missing; or the file is damaged, asks for code, or would unpack to far
        more than it holds.
    """
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            f"{path} is a PyTorch file, and reading it needs PyTorch: "
            "pip install 'tpgdiff_jax[convert]'. (.safetensors files need nothing.)"
        )
    import torch

    _check_archive(path)
    _check_tuples(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore", UserWarning)  # of unusual protocols, for its developers
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make the loader raise anything
        asked = _foreign_names(path)
        if isinstance(error, pickle.UnpicklingError) and asked:
            raise UserError(
                f"{path} is refused: it asks for {', '.join(asked)}, which is code and no weights. "
                "If you trust where it comes from, save its state dict alone and convert that."
            ) from error
        raise UserError(f"{path} is damaged, or no PyTorch file.") from error


def _check_archive(path: pathlib.Path) -> None:
    """Raise UserError for an archive that holds far more than the file; PyTorch packs nothing."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (ValueError, NotImplementedError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged, or no PyTorch file.") from error
    size = path.stat().st_size
    if unpacked > MOST_UNPACKED * size:
        raise UserError(
            f"{path} is refused: it has {size:,} bytes and would unpack to {unpacked:,}; PyTorch "
            "packs nothing, so this is no file of its."
        )


def _harmless() -> list[Any]:
    """Return what training programs store beside weights: NumPy's numbers, parsed arguments."""
    number_types = [type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64")]
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    old_name = (scalar, "numpy.core.multiarray.scalar")
    return [scalar, old_name, np.dtype, *number_types, argparse.Namespace]


def _foreign_names(path: pathlib.Path) -> list[str]:
    """List what a pickle asks for beyond PyTorch's and Python's own containers, running nothing."""
    asked: list[str] = []
    strings: list[str] = []
    for operation, argument in _operations(path):
        if operation == "GLOBAL":
            asked.append(argument.replace(" ", "."))
        elif operation == "STACK_GLOBAL":
            asked.append(".".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    own = ("torch.", "collections.")
    return [name for name in dict.fromkeys(asked) if not name.startswith(own)]


def _check_tuples(path: pathlib.Path) -> None:
    """Raise UserError for tuples of tuples that hold one another again and again.

    A hundred bytes can make one of 2**50 parts, which take no memory; but a dict that has it for a
    key asks for its hash, and that walks through all of them, where nothing can stop it.
    """
    stack: list[int | None] = []  # parts of each value; None is a mark
    memo: dict[int, int | None] = {}
    for operation, argument in _operations(path):
        if operation == "MARK":
            stack.append(None)
        elif operation in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(int(argument), 1))
        elif operation in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else int(argument)] = stack[-1] if stack else 1
        elif operation.startswith("TUPLE"):
            parts = _taken(stack, int(operation[5:]) if operation[5:] else None)
            stack.append(1 + sum(parts))
            if stack[-1] > _MOST_PARTS:
                raise UserError(
                    f"{path} is refused: it holds a tuple of more parts than weights have."
                )
        else:
            _apply(stack, operation)


def _apply(stack: list[int | None], operation: str) -> None:
    """Let an operation take from the stack what it takes, and lay down what it lays down."""
    about = _OPERATIONS[operation]
    if pickletools.markobject in about.stack_before:
        _taken(stack, None)
        below = about.stack_before.index(pickletools.markobject)
    else:
        below = len(about.stack_before)
    _taken(stack, below)
    stack += [1] * len(about.stack_after)


def _taken(stack: list[int | None], number: int | None) -> list[int]:
    """Take so many values off a stack, or all down to a mark, which goes, too."""
    taken: list[int] = []
    while stack and (number is None or len(taken) < number):
        value = stack.pop()
        if value is None and number is None:
            break
        taken.append(value or 1)
    return taken


def _operations(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """Yield (name, argument) of the operations of a file's pickles, as far as they go."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                data = io.BytesIO(archive.read(name))  # `_check_archive` has seen how much it is
                yield from ((op.name, argument) for op, argument, _ in pickletools.genops(data))
            return
        with path.open("rb") as file:
            for _ in range(_PICKLES):  # one behind the other, then bare numbers
                yield from ((op.name, argument) for op, argument, _ in pickletools.genops(file))
    except Exception:  # the end, bare numbers, or a damaged file, of which the loader says more
        return
