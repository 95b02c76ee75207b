"""Files written whole, and names that every output can show."""

import os
import pathlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a name to write to, which then becomes `path`; it is removed if anything fails.

    The name is drawn at random, so that two programs may write the same file at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{os.getpid()}.{secrets.token_hex(8)}.partial{path.suffix}"
    temporary = path.with_name(name)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file whole: under another name, then renamed.

    A file's name may hold bytes that are no text; they are written as escapes.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def printable(text: object, encoding: str | None = None) -> str:
    """Replace what an output cannot show, such as file names that are no text, by escapes.

    Args:
      text: what is to be shown.
      encoding: of the output, UTF-8 if not known.
    """
    encoding = encoding or "utf-8"
    return str(text).encode(encoding, "backslashreplace").decode(encoding)
