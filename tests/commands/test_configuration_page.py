"""The page of all keys is what the table of keys makes of it."""

import pathlib

from tpgdiff_jax.commands import configuration_page
from tpgdiff_jax.config import KEYS

PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "configuration.md"


def test_the_committed_page_is_the_one_that_the_command_prints():
    """Mend it by the command named at the head of the page."""
    assert PAGE.read_text() == configuration_page.page()


def test_every_key_has_one_row_of_four_cells():
    rows = [line for line in configuration_page.page().splitlines() if line.startswith("| `")]
    keys = [row.split("`")[1] for row in rows]
    assert sorted(keys) == sorted(KEYS)
    for row in rows:
        cells = row.replace("\\|", "").strip("| ").split(" | ")
        assert len(cells) == 4, row
        assert all(cells), row
