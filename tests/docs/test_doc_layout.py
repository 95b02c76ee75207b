"""The rooms are as docs/layout.md says, and none imports from its own floor or above."""

import ast
import functools
import pathlib
import re

import pages
import pytest

PACKAGE = pages.ROOT / "tpgdiff_jax"
_ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")


def _rows():
    found = _ROW.findall(pages.ROOT.joinpath("docs", "layout.md").read_text())
    for floor, rooms, text in found:
        for room in _CODE.findall(rooms):
            yield int(floor), room.rstrip("/").removesuffix(".py"), text


FLOORS = {room: floor for floor, room, _ in _rows()}


def _imports(path: pathlib.Path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "tpgdiff_jax":
                names = [f"tpgdiff_jax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("tpgdiff_jax."))


def _room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_its_floor():
    rooms = {_room(path) for path in PACKAGE.glob("**/*.py")} - {"__init__"}
    assert rooms | {"assets"} == set(FLOORS)


def test_imports_lead_downwards():
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {room}"
        for path in PACKAGE.glob("**/*.py")
        if path != PACKAGE / "__init__.py"
        for room in _imports(path)
        if room != _room(path) and FLOORS[room] >= FLOORS[_room(path)]
    }
    assert not wrong


@functools.cache
def _defined(module: str) -> set[str]:
    """Return what can be imported from a module, read from its text: extras may be missing."""
    place = pages.ROOT.joinpath(*module.split("."))
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    below = {child.stem for child in place.iterdir()} if place.is_dir() else set()
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found | below


def test_what_is_imported_is_there():
    wrong = {
        f"{path.relative_to(pages.ROOT)}: {node.module} has no {alias.name}"
        for folder in ("tpgdiff_jax", "tests", "launch", "configs")
        for path in (pages.ROOT / folder).glob("**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tpgdiff_jax")
        for alias in node.names
        if alias.name not in _defined(node.module) and node.module != "tpgdiff_jax"
    }
    assert not wrong


@pytest.mark.parametrize(("room", "text"), [(room, text) for _, room, text in _rows()])
def test_files_that_are_named_exist(room, text):
    names = [name for name in _CODE.findall(text) if re.fullmatch(r"[a-z0-9_]+\.py", name)]
    assert all(list((PACKAGE / room).glob(f"**/{name}")) for name in names)


@pytest.mark.parametrize(("room", "text"), [(room, text) for _, room, text in _rows()])
def test_every_file_of_a_room_is_named(room, text):
    files = {path.name for path in (PACKAGE / room).glob("*.py")} - {"__init__.py"}
    assert not files - set(_CODE.findall(text))
