"""The launch scripts: well-formed, and clear when the machine lacks something."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPTS = sorted([*(ROOT / "launch").glob("*.sh"), ROOT / ".ci" / "run"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid_shell(script):
    subprocess.run(["bash", "-n", script], check=True)


def call(function, tmp_path, **environment):
    """Source environment.sh with a PATH of our own and call one of its functions."""
    code = f"source {ROOT}/launch/environment.sh; {function}"
    return subprocess.run(
        ["/bin/bash", "-c", code],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def fake(tmp_path, name, body):
    path = tmp_path / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return path


def test_old_python_gets_one_sentence(tmp_path):
    for name in ("python3", "python3.13", "python3.12", "python3.11", "python"):
        fake(tmp_path, name, "exit 1")
    done = call("find_python", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Python 3.11 or later is needed" in done.stderr


def test_named_python_is_preferred(tmp_path):
    mine = fake(tmp_path, "mine", "exit 0")
    assert call("find_python", tmp_path, PYTHON=str(mine)).stdout == str(mine)


def test_a_named_python_that_is_too_old_is_not_replaced_by_another(tmp_path):
    fake(tmp_path, "python3", "exit 0")
    old = fake(tmp_path, "mine", "exit 1")
    done = call("find_python", tmp_path, PYTHON=str(old))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"PYTHON={old} cannot be started, or is older than Python 3.11" in done.stderr


def test_missing_venv_module_gets_one_sentence(tmp_path):
    python = fake(tmp_path, "mine", "exit 1")
    done = call(f"make_venv {python} {tmp_path}/venv", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "python3-venv" in done.stderr


def test_full_disk_gets_one_sentence(tmp_path):
    fake(tmp_path, "df", r"printf 'Filesystem\n/dev/full 100 99 12 99%% /\n'")
    done = call("check_disk /", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "12 MB free" in done.stderr


def test_a_clone_is_installed_once_and_anew_where_it_was_moved(tmp_path):
    fake(tmp_path, "df", "exit 0")
    clone, moved, log = tmp_path / "clone", tmp_path / "moved", tmp_path / "log"
    (clone / ".venv" / "bin").mkdir(parents=True)
    fake(clone / ".venv" / "bin", "python", f'[ "$1" = -c ] || echo "$*" >> {log}')
    for name in ("requirements.txt", "pyproject.toml"):
        (clone / name).write_text("jax\n")

    def ran(folder):
        log.write_text("")
        python = fake(tmp_path, "mine", "exit 0")
        done = call(f"cd {folder}; prepare_environment ''", tmp_path, PYTHON=str(python))
        assert done.returncode == 0, done.stderr
        return log.read_text()

    assert "--editable ." in ran(clone)
    assert ran(clone) == ""
    clone.rename(moved)
    assert "--editable ." in ran(moved)
    assert ran(moved) == ""


def test_an_environment_of_another_python_than_the_named_one_is_refused_and_kept(tmp_path):
    inside = tmp_path / "venv" / "bin"
    inside.mkdir(parents=True)
    fake(inside, "python", '[ "$1" = -c ] || echo "ran $*"; [[ $2 != *print* ]] || echo 3.11')
    newer = fake(tmp_path, "newer", "[[ $2 != *print* ]] || echo 3.13")
    wanted = {"PYTHON": str(newer), "TPGDIFF_VENV": str(tmp_path / "venv")}
    done = call(f"cd {ROOT}; prepare_environment ''", tmp_path, **wanted)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/venv has Python 3.11, but PYTHON={newer} is Python 3.13;" in done.stderr
    assert "TPGDIFF_VENV=.venv-3.13" in done.stderr
    assert [path.name for path in inside.iterdir()] == ["python"]


@pytest.mark.parametrize(("flags", "trains"), [(("--train=no",), False), (("--seed=3",), True)])
def test_the_quickstart_restores_first_and_trains_if_wanted(tmp_path, flags, trains):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    fake(tmp_path / "venv" / "bin", "python", '[ "$1" = -c ] || echo "ran $*"')
    done = subprocess.run(
        ["bash", ROOT / "launch" / "quickstart.sh", *flags],
        env={"PATH": os.environ["PATH"], "TPGDIFF_VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        check=True,
    )
    first, _, second = done.stdout.partition("ran launch/first_restoration.py\n")
    assert "1. Restoring" in first
    if not trains:
        assert second == ""
        return
    assert "This is a demo that trains a small model for a few minutes" in second
    assert second.endswith("ran -m tpgdiff_jax.main --config=configs/quickstart.py --seed=3\n")


def test_the_quickstart_explains_itself_before_it_installs_anything(tmp_path):
    words = ["bash", ROOT / "launch" / "quickstart.sh", "--help"]
    environment = os.environ | {"TPGDIFF_VENV": str(tmp_path / "venv")}
    found = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert (found.returncode, found.stderr) == (0, "")
    assert "bash launch/quickstart.sh [--train=no]" in found.stdout
    assert not (tmp_path / "venv").exists()


def test_a_mistyped_switch_of_the_quickstart_gets_one_sentence():
    words = ["bash", ROOT / "launch" / "quickstart.sh", "--train=maybe"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: --train=maybe: expected --train=yes or --train=no.\n"
