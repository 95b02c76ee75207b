"""In which number type weights lie in a file, and what such a file says of itself."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors

from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.foreign import HEAD_BYTES, foreign

FORMAT = "tpgdiff_jax weights 1"
_FAMILY = FORMAT.rsplit(" ", 1)[0]
# What kernels may be stored in; half the bytes, and 11 or 8 bits of mantissa instead of 24.
STORED_TYPES = ("float32", "float16", "bfloat16")
UPDATE = "update tpgdiff_jax (pip install --upgrade tpgdiff_jax)"


def narrowed(name: str, value: Any, dtype: str) -> np.ndarray:
    """Return an array as it is stored.

    Gains, biases and statistics stay float32: they are few, and a norm's variance may be tiny.

    Args:
      name: of the array, for messages.
      value: the array; kernels have two or more dimensions.
      dtype: of kernels, one of `STORED_TYPES`.

    Raises:
      UserError: an unknown type, or values too large for it.
    """
    if dtype not in STORED_TYPES:
        raise UserError(f"weights_dtype={dtype!r}: expected one of {', '.join(STORED_TYPES)}.")
    wide = widened(value)
    if wide.ndim < 2 or wide.dtype != np.float32 or dtype == "float32":
        return np.ascontiguousarray(wide)
    with np.errstate(over="ignore"):  # said below, with the tensor's name
        narrow = wide.astype(jnp.dtype(dtype))
    lost = np.isfinite(wide) & ~np.isfinite(narrow.astype(np.float32))
    if lost.any():
        largest = float(np.abs(wide[lost]).max())
        raise UserError(
            f"{name} holds {largest:g}, which {dtype} cannot (at most "
            f"{float(jnp.finfo(dtype).max):g}); store the weights as "
            f"{'float32' if dtype == 'bfloat16' else 'bfloat16 or float32'}."
        )
    return np.ascontiguousarray(narrow)


def widened(value: Any) -> np.ndarray:
    """Return an array with any kind of floating-point values as float32; others as they are."""
    value = np.asarray(value)
    return value.astype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value


def read_description(path: pathlib.Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Read what a file of published weights says of itself.

    Args:
      path: of the file, for messages.
      metadata: of the `.safetensors` file.

    Raises:
      UserError: it is another kind of file, of another version of the format, or damaged.
    """
    text = (metadata or {}).get("description")
    if text is None:
        raise UserError(f"{path} is not in the format {FORMAT!r}; make it so with --mode=convert.")
    try:
        description = json_text.loads(text)
        found, parts = description["format"], description["parts"]
        is_sound = isinstance(found, str) and isinstance(parts, dict)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: its description is damaged ({type(error).__name__}: {error}); get the file "
            "again, or export the weights anew."
        ) from error
    if found != FORMAT:
        is_ours = is_sound and found.startswith(_FAMILY)
        advice = f"{UPDATE}, or use weights of this version" if is_ours else "use --mode=convert"
        raise UserError(
            f"{path} is in the format {found!r}, this version reads {FORMAT!r}; {advice}."
        )
    if not is_sound:
        raise UserError(f"{path}: its description is damaged (parts); get the file again.")
    return description


def tensor(file: Any, name: str) -> np.ndarray:
    """Return an array of a file that is `opened`.

    Raises:
      safetensors.SafetensorError: of a number type that NumPy has not; `opened` says it.
    """
    try:
        return file.get_tensor(name)
    except (AttributeError, LookupError, TypeError) as error:
        raise safetensors.SafetensorError(f"{name}: {error}") from error


def is_published(path: pathlib.Path) -> bool:
    """Tell whether a `.safetensors` file is in the format of `published`; a damaged one is not."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return "description" in (file.metadata() or {})
    except safetensors.SafetensorError:
        return False


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Any]:
    """Open a `.safetensors` file; what is wrong with it becomes a UserError.

    Yields:
      the file of `safetensors.safe_open`, which reads numpy arrays.
    """
    if not path.is_file():
        raise UserError(f"{path} is no file; name published weights (--mode=convert writes them).")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except safetensors.SafetensorError as error:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        if what := "an empty file (0 bytes)" if not head else foreign(head):
            raise UserError(f"{path}: not published weights but {what}.") from error
        raise UserError(
            f"{path} is damaged or no .safetensors file ({error}); get it again, or export it anew."
        ) from error
