"""Command lines, parsed in this process and forgotten afterwards."""

import json
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from tpgdiff_jax.commands import flags as typed

EXPERIMENT = """
import json
from tpgdiff_jax.config import base_config

def get_config():
    config = base_config()
    change(config, json.loads({values!r}))
    return config

def change(group, values):
    for key, value in values.items():
        if isinstance(value, dict):
            change(group[key], value)
        else:
            group[key] = tuple(value) if isinstance(value, list) else value
"""


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


@pytest.fixture
def tiny_experiment(tmp_path, tiny_config):
    """The tiny configuration as an experiment file."""
    path = tmp_path / "tiny.py"
    values = json.loads(tiny_config.to_json())
    values.pop("sharding")
    path.write_text(EXPERIMENT.format(values=json.dumps(values)))
    return path
