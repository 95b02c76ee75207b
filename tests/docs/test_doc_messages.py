"""The messages that docs/troubleshooting.md explains are those that the code says."""

import ast
import functools
import re

import pages

PAGE = pages.ROOT / "docs" / "troubleshooting.md"
# Said by Python itself.
FOREIGN = {"No module named tpgdiff_jax"}
_MESSAGE = re.compile(r"(?<=\n\n)`([^`]+)`")
_VALUE = "\0"  # stands for what a message fills in


def _literal(node: ast.expr) -> str | None:
    """Return a text or f-string with its values replaced; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    return "".join(part.value if isinstance(part, ast.Constant) else _VALUE for part in node.values)


@functools.cache
def _texts() -> tuple[str, ...]:
    paths = [*pages.ROOT.glob("tpgdiff_jax/**/*.py"), *pages.ROOT.glob("launch/**/*.py")]
    scripts = [path.read_text() for path in pages.ROOT.glob("launch/*.sh")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    return (*scripts, *(text for node in nodes if (text := _literal(node))))


def _is_said(message: str) -> bool:
    """Tell whether the words between the dots stand in this order in one text of the code."""
    words = [part for part in re.split(r"\.{3,4}", message) if part.strip(" .:;")]
    pattern = re.compile(".*".join(re.escape(word.strip()) for word in words), re.DOTALL)
    return any(pattern.search(text) for text in _texts())


def test_every_message_is_said_by_the_code():
    messages = [" ".join(text.split()) for text in _MESSAGE.findall(PAGE.read_text())]
    assert len(messages) > 40
    unknown = [text for text in messages if text not in FOREIGN and not _is_said(text)]
    assert not unknown


def test_another_message_would_be_found():
    assert not _is_said("--input=... is no such thing.")
