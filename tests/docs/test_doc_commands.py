"""Commands in the pages parse, and pages and programs name the same flags and keys."""

import contextlib
import functools
import re
import sys

import pages
import pytest
from absl import flags
from absl.testing import flagsaver

from tpgdiff_jax import config as configuration
from tpgdiff_jax import main  # noqa: F401  (it defines flags)
from tpgdiff_jax.commands import flags as typed

# Of ml_collections, which reads the experiment files.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

# Values of flags rather than flags of ours, and what every program has.
FOREIGN = {"help", "version", "flagfile", "logdir"}
# Of Slurm, gcloud and Docker, as far as \w+ goes.
OF_LAUNCHERS = {"ntasks", "gpus", "cpus", "signal", "worker", "batch", "array", "wrap", "nodes"}
OF_LAUNCHERS |= {"time", "file", "tag", "filename"}
COMMANDS = [
    (page, tuple(words))
    for page in (*pages.PAGES, pages.CARD, *pages.EXPERIMENTS)
    for words in pages.commands(page, "python -m tpgdiff_jax.main")
    if not {"--help", "--version"} & set(words)  # they print, and end
]
_FLAG = re.compile(r"(?<![\w-])--(\w+)")
_KEY = re.compile(r"\bconfig\.(\w+(?:\.\w+)*)")


@contextlib.contextmanager
def _parsed(*words):
    """Parse a command line in the project's folder; yield the flags and what is left."""
    argv = ["main", *words]
    with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
        patch.chdir(pages.ROOT)
        patch.setattr(sys, "argv", argv)
        flags.FLAGS.unparse_flags()
        yield flags.FLAGS, typed.parse_flags(argv)


@functools.cache
def _own() -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of the main program's flags and modes."""
    with _parsed("--config=configs/quickstart.py") as (found, _):
        modules = found.flags_by_module_dict().items()
        names = {
            f.name for module, own in modules if module.startswith("tpgdiff_jax.") for f in own
        }
        return frozenset(names), frozenset(found["mode"].parser.enum_values)


def _keys() -> set[str]:
    keys = {key for key, _ in configuration.flat_items(configuration.base_config())}
    groups = {".".join(key.split(".")[:n]) for key in keys for n in range(1, key.count(".") + 1)}
    return keys | groups


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page.name}-{i}" for i, (page, _) in enumerate(COMMANDS)]
)
def test_commands_of_the_main_program_parse(page, words):
    with _parsed(*words) as (found, rest):
        assert rest == ["main"]
        typed.checked_config(found["config"].value)


def test_a_wrong_command_would_be_found():
    words = ("--config=configs/quickstart.py", "--config.optim.no_such_key=1")
    with pytest.raises(ValueError, match="no_such_key"), _parsed(*words):
        pass


def test_there_are_commands_of_every_mode():
    modes = {word.partition("=")[2] for _, words in COMMANDS for word in words if "--mode" in word}
    assert modes >= _own()[1] - {"train"}
    assert any("--mode" not in " ".join(words) for _, words in COMMANDS)


def test_every_flag_is_documented():
    text = "".join(page.read_text() for page in pages.PAGES)
    named = set(_FLAG.findall(text))
    missing = {name for name in _own()[0] if not {name, f"no{name}"} & named}
    assert not missing, "name these flags of the main program in docs/"


@functools.cache
def _launch_sources() -> str:
    return "".join(
        path.read_text()
        for path in pages.ROOT.glob("launch/**/*")
        if path.suffix in (".py", ".sh", ".sbatch")
    )


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name_of)
def test_every_documented_flag_exists(page):
    known = _own()[0] | {"config"} | FOREIGN
    known |= {f"no{name}" for name in known}
    known |= OF_LAUNCHERS if page.name == "launching.md" else set()
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
