"""Command lines, parsed in this process and forgotten afterwards."""

import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from tpgdiff_jax.commands import flags as typed


@pytest.fixture
def parse(monkeypatch):
    """`parse("--mode=restore", ...)` -> the parsed flags."""
    saved = flagsaver.save_flag_values()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["main", *map(str, arguments)])
        typed.parse_flags(sys.argv)
        return flags.FLAGS

    yield run
    flagsaver.restore_flag_values(saved)
