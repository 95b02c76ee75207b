"""The launch scripts: well-formed, and clear when the machine lacks something."""

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
