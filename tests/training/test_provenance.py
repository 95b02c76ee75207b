"""What a start records; with a clone, without one, without git."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from tpgdiff_jax.training import provenance


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", folder, *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path):
    package = tmp_path / "clone" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(package, "init")
    git(package, "add", ".")
    git(package, "commit", "-m", "one")
    return package


def test_every_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "tpgdiff_jax.main", "--workdir=my run"])
    first = provenance.record_start(tmp_path)
    provenance.record_start(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert rows[0] == first
    assert rows[0]["versions"]["jax"] == jax.__version__
    assert rows[0]["versions"]["numpy"] == np.__version__
    assert rows[0]["versions"]["python"] == sys.version.split()[0]
    assert rows[0]["devices"] == {"cpu": 8}
    assert rows[0]["processes"] == 1
    assert rows[0]["command"] == "python -m tpgdiff_jax.main '--workdir=my run'"


def test_clone_clean_and_changed(clone):
    state = provenance.git_state(clone)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (clone.parent / "beside.txt").write_text("not of the package")
    assert provenance.git_state(clone)["dirty"] is False
    (clone / "new.py").write_text("")
    assert provenance.git_state(clone) == {"commit": state["commit"], "dirty": True}


def test_installed_inside_another_clone_is_not_that_clone(clone):
    installed = clone.parent / "venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert provenance.git_state(installed) == {"commit": None, "dirty": None}


def test_without_clone_or_git_nothing_fails(tmp_path, clone, monkeypatch):
    assert provenance.git_state(tmp_path) == {"commit": None, "dirty": None}
    assert provenance.git_state(tmp_path / "nowhere") == {"commit": None, "dirty": None}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(clone) == {"commit": None, "dirty": None}
    assert provenance.record_start(tmp_path)["commit"] is None


def test_missing_package_is_none(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package-here",))
    assert provenance.versions()["no-such-package-here"] is None
