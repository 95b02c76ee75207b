"""What goes wrong with a picture's file, in plain words."""

import errno
import os

from PIL import Image

from tpgdiff_jax.reporting.errors import UserError

_NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)  # the machine is in trouble


class UnreadableImageError(Exception):
    """A file that is no usable image.

    Attributes:
      file: which one.
      reason: why, in a few words.
    """

    def __init__(self, file: str | os.PathLike, reason: str):
        super().__init__(str(file), reason)
        self.file, self.reason = str(file), reason

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


def as_unreadable(error: Exception, name: str) -> Exception:
    """Return what to raise for whatever a decoder raised.

    Args:
      error: of any kind; damaged files make decoders raise anything.
      name: what to call the file.

    Returns:
      an `UnreadableImageError`; an OSError where the machine is at fault, not the file.
    """
    if isinstance(error, OSError) and error.errno in _NOT_THE_FILE:
        return OSError(error.errno, error.strerror, name)
    return UnreadableImageError(name, _reason(error, name))


def _reason(error: Exception, name: str) -> str:
    """Say in plain words what is wrong with a file."""
    if isinstance(error, FileNotFoundError):
        if os.path.islink(name):
            return f"a link to {os.readlink(name)}, which does not exist"
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, no image"
    if isinstance(error, PermissionError):
        what = "a folder that may" if os.path.isdir(name) else "may"
        return f"{what} not be read (permission denied)"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read ({error.strerror})"
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, whatever its name says"
    text = str(error) or type(error).__name__
    if "truncat" in text.lower() or isinstance(error, EOFError):
        return "truncated"
    return f"damaged ({text.partition(chr(10))[0]})"
