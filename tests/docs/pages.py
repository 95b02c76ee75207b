"""The README and the pages of docs/: their text, code blocks and commands."""

import ast
import pathlib
import re
import shlex
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# What holds commands, too.
CARD = ROOT / "tpgdiff_jax" / "assets" / "MODEL_CARD.md"
EXPERIMENTS = tuple(sorted((ROOT / "configs").glob("*.py")))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")


def name_of(page: pathlib.Path) -> str:
    """Return what tests call a page."""
    return str(page.relative_to(ROOT))


def blocks(page: pathlib.Path, language: str) -> list[str]:
    """Return the code blocks of one language."""
    return [text for found, text in _BLOCK.findall(page.read_text()) if found == language]


def prose(page: pathlib.Path) -> str:
    """Return a page without its code blocks."""
    return _BLOCK.sub("", page.read_text())


def spans(page: pathlib.Path) -> list[str]:
    """Return what stands as code within sentences, each on one line."""
    return [" ".join(text.split()) for text in _SPAN.findall(prose(page))]


def commands(page: pathlib.Path, program: str) -> Iterator[list[str]]:
    """Yield the arguments of every command that starts a program, e.g. `python launch/bench`."""
    if page.suffix == ".py":
        lines = _joined(ast.get_docstring(ast.parse(page.read_text())))
    else:
        lines = [line for block in blocks(page, "bash") for line in _joined(block)]
        lines += spans(page)
    for line in lines:
        text = re.sub(r"^(Command: +)?([A-Z_]+=\S+ )*", "", line.strip())
        if text.startswith(f"{program} "):
            yield shlex.split(text.removeprefix(program), comments=True)


def _joined(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()
