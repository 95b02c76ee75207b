"""Commands in the pages parse, and pages and programs name the same flags and keys."""

import functools
import re
import sys

import pages
import pytest
from absl import flags
from absl.testing import flagsaver

from tpgdiff_jax import config as configuration
from tpgdiff_jax import main
from tpgdiff_jax.commands import flags as typed

MODULES = ("tpgdiff_jax.main", "tpgdiff_jax.commands.flags")
# Values of flags rather than flags of ours, and what every program has.
FOREIGN = {"help", "logdir"}
COMMANDS = [
    (page, tuple(words))
    for page in (*pages.PAGES, pages.CARD, *pages.EXPERIMENTS)
    for words in pages.commands(page, "python -m tpgdiff_jax.main")
]
_FLAG = re.compile(r"(?<![\w-])--(\w+)")
_KEY = re.compile(r"\bconfig\.(\w+(?:\.\w+)*)")


def _own_flags() -> set[str]:
    by_module = main.FLAGS.flags_by_module_dict()
    return {flag.name for module in MODULES for flag in by_module[module]}


def _keys() -> set[str]:
    keys = {key for key, _ in configuration.flat_items(configuration.base_config())}
    groups = {".".join(key.split(".")[:n]) for key in keys for n in range(1, key.count(".") + 1)}
    return keys | groups


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page.name}-{i}" for i, (page, _) in enumerate(COMMANDS)]
)
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_commands_of_the_main_program_parse(page, words, monkeypatch):
    monkeypatch.chdir(pages.ROOT)
    argv = ["main", *(word for word in words if word != "...")]
    monkeypatch.setattr(sys, "argv", argv)
    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        assert typed.parse_flags(argv) == ["main"]
        assert flags.FLAGS.mode in main.MODES
        typed.checked_config(flags.FLAGS["config"].value)


def test_a_wrong_command_would_be_found(monkeypatch):
    argv = ["main", "--config=configs/quickstart.py", "--config.optim.no_such_key=1"]
    monkeypatch.chdir(pages.ROOT)
    with pytest.raises(ValueError, match="no_such_key"):
        typed.parse_flags(argv)


def test_there_are_commands_of_every_mode():
    modes = {word.partition("=")[2] for _, words in COMMANDS for word in words if "--mode" in word}
    assert modes >= set(main.MODES) - {"train"}
    assert any("--mode" not in " ".join(words) for _, words in COMMANDS)


def test_every_flag_is_documented():
    text = "".join(page.read_text() for page in pages.PAGES)
    named = set(_FLAG.findall(text))
    missing = {name for name in _own_flags() if not {name, f"no{name}"} & named}
    assert not missing, "name these flags of main.py in docs/"


@functools.cache
def _launch_sources() -> str:
    return "".join(
        path.read_text() for path in pages.ROOT.glob("launch/**/*") if path.suffix in (".py", ".sh")
    )


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name_of)
def test_every_documented_flag_exists(page):
    known = _own_flags() | {"config"} | FOREIGN
    known |= {f"no{name}" for name in known}
    text = re.sub(r"XLA_FLAGS=\"[^\"]*\"", "", "\n".join((*pages.spans(page), _bash(page))))
    wrong = []
    for line in text.splitlines():
        names = set(_FLAG.findall(line)) - known
        if re.search(r"launch/|train\.sh|pip |python3 -m pip", line) or line.startswith("--"):
            # Those of the scripts in launch/, which define them in several ways.
            names = {name for name in names if not re.search(rf"[\"'-]{name}\b", _launch_sources())}
        if "pip " not in line:
            wrong += names
    assert not wrong


def _bash(page) -> str:
    return "\n".join(pages.blocks(page, "bash")).replace("\\\n", " ")


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name_of)
def test_every_documented_key_exists(page):
    found = set(_KEY.findall("\n".join((*pages.spans(page), _bash(page)))))
    found -= {"py", "json"}
    assert not found - _keys()


def test_scripts_that_pages_name_exist():
    text = "".join(page.read_text() for page in pages.PAGES)
    named = set(re.findall(r"\b((?:launch|configs|tpgdiff_jax|tests)/[\w/.-]*\w)", text))
    # An example of a name, and what docs/adding.md makes.
    named = {name for name in named if "NAME" not in name and "fading" not in name}
    assert not [name for name in named if not (pages.ROOT / name).exists()]
