"""Print docs/configuration.md, made from the table of keys.

python -m tpgdiff_jax.commands.configuration_page > docs/configuration.md
"""

from collections.abc import Iterator

from tpgdiff_jax.commands.config_checks import KNOWN
from tpgdiff_jax.config import KEYS, TABLE, check_of
from tpgdiff_jax.keys.group import Group

_LONGEST_DEFAULT = 100
_TOP = """# Configuration

Every key of an experiment, with its default, what it may be, and what it means.  Defaults are the
released program's settings (arXiv 2601.20306), but for the priors: these need no frozen weights.
`configs/released.py` has the released ones.

An experiment file under `configs/` changes keys in Python (`config.optim.steps = 1000`).  On the
command line write `--config.optim.steps=1000`, and tuples in quotes:
`--config.model.multipliers="(1, 2, 4, 8)"`.  An unknown key, a value that cannot be, and values
that contradict each other stop the program before it touches a device.

Keys marked * may change between two starts of one run.  Any other change is refused, and the
differing keys are listed.  Of `data.train_sources` the paths may change.

<!-- Made by: python -m tpgdiff_jax.commands.configuration_page > docs/configuration.md -->
"""


def page() -> str:
    """Return the whole page, Markdown."""
    parts = [_TOP]
    for title, words, names in _sections():
        lines = [f"## {title}", "", *words, "", "| key | default | may be | meaning |"]
        lines += ["| --- | --- | --- | --- |", *map(_row, names), ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _sections() -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield (title, words, keys) of every part of the page; nested groups belong to their group."""
    alone = [name for name, member in TABLE.members.items() if not isinstance(member, Group)]
    yield "The experiment", [TABLE.words], alone
    for name, member in TABLE.members.items():
        if isinstance(member, Group):
            words = [member.words]
            for inner, nested in member.members.items():
                if isinstance(nested, Group):
                    words += ["", f"`{name}.{inner}`: {nested.words}"]
            yield name, words, [f"{name}.{key}" for key, _ in member.walk()]


def _row(key: str) -> str:
    entry, check = KEYS[key], check_of(key, KNOWN)
    default = f'"{entry.default}"' if isinstance(entry.default, str) else f"{entry.default}"
    shown = f"`{default}`" if len(default) <= _LONGEST_DEFAULT else "see there"
    cells = (f"`{key}`{'*' if entry.free else ''}", shown, check.words, entry.words)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
