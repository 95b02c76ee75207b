"""Runs on TPU slices: what a dry run prints, what hosts run, and what is done with stand-ins."""

import os
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
EXPECTED = pathlib.Path(__file__).parent / "expected" / "tpu_pod.txt"
POD = ["--name=mine", "--zone=europe-west4-b", "--type=v5litepod-16", "--spot"]
FLAGS = ["--config=configs/tpgdiff_5d.py", "--workdir=/mnt/runs/5d"]
SOURCES = "--config.data.train_sources=('pairs:/mnt/five',)"


def fake(folder, name, body):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def bash(script, *arguments, **environment):
    return subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_dry_run_prints_every_command(tmp_path):
    fake(tmp_path, "gcloud", "echo a dry run must not start gcloud >&2; exit 9")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = bash("tpu_pod.sh", *POD, "--delete", "--dry-run", "--", *FLAGS, SOURCES, PATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == EXPECTED.read_text()


def on_a_host(home, which, change=("", "")):
    """Run the command of the dry run that holds a word, in a host's home folder."""
    lines = EXPECTED.read_text().splitlines()
    words = shlex.split(next(line for line in lines if which in line))
    (command,) = (w.removeprefix("--command=") for w in words if w.startswith("--command="))
    words = ["bash", "-c", command.replace(*change)]
    done = subprocess.run(words, cwd=home, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def home(tmp_path):
    """A host's home folder; its program prints its flags and ends with 3 once `end` is there."""
    folder = tmp_path / "home"
    (folder / "tpgdiff_jax" / "launch" / "env").mkdir(parents=True)
    shutil.copy(LAUNCH / "env" / "tpu.sh", folder / "tpgdiff_jax" / "launch" / "env")
    body = "printf '%s\\n' \"$@\"; until [ -e ../end ]; do sleep 0.05; done; exit 3"
    fake(folder / "tpgdiff_jax", ".venv/bin/python", body)
    yield folder
    (folder / "end").touch()


def test_what_hosts_run_is_shell_that_keeps_the_flags(home):
    (home / "end").touch()
    on_a_host(home, "nohup")
    wait_for(lambda: (home / "code").is_file() and (home / "code").read_text() == "3\n")
    assert (home / "log").read_text().splitlines() == [
        *("-u", "-m", "tpgdiff_jax.main", *FLAGS, SOURCES)
    ]


def test_a_host_tells_whether_its_program_works_is_another_or_has_ended(home):
    assert on_a_host(home, "cat\\ code") == "gone\n"
    (home / "code").write_text("1\n")  # of an earlier start
    on_a_host(home, "nohup")
    assert on_a_host(home, "cat\\ code") == "works\n"
    assert on_a_host(home, "cat\\ code", (" tpgdiff-", " tpgdiff-9")) == "other\n"
    (home / "end").touch()
    wait_for(lambda: on_a_host(home, "cat\\ code") == "3\n")
    (home / "pid").write_text(f"{os.getpid()}\n")  # a number that another process has now
    (home / "code").unlink()
    assert on_a_host(home, "cat\\ code") == "gone\n"


def wait_for(is_so):
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


# A slice that is absent, then taken away while the program runs, then there until it is done.
GCLOUD = """
echo "$*" >> "$0.calls"
case "$*" in
    *describe*)
        [ ! -f "$0.offline" ] || { echo "ERROR: no network" >&2; rm "$0.offline"; exit 1; }
        [ -f "$0.made" ] || { echo "ERROR: NOT_FOUND: Resource was not found." >&2; exit 1; }
        looks=$(( $(cat "$0.looks" 2>/dev/null || echo 0) + 1 )); echo $looks > "$0.looks"
        if [ "$looks" = 3 ]; then echo SUSPENDED; rm "$0.looks"; touch "$0.lost"
        elif [ -f "$0.lost" ]; then echo SUSPENDED
        else echo ACTIVE; fi ;;
    *create*) touch "$0.made" ;;
    *delete*) rm -f "$0.made" "$0.lost" "$0.looks" ;;
    *--batch-size*) cat "$0.there" 2> /dev/null || echo gone ;;
    *"cat code"*) if [ -f "$0.again" ]; then echo CODE; else AGAIN; echo works; fi ;;
    *"cat log"*) for w in $*; do case $w in --output-directory=*)
        echo fine > "${w#*=}/0.log" ;; esac; done ;;
esac
"""


def pod(tmp_path, code, *more, stand_in=GCLOUD, again='touch "$0.again"'):
    stand_in = stand_in.replace("CODE", str(code)).replace("AGAIN", again)
    gcloud = fake(tmp_path, "gcloud", stand_in)
    fake(tmp_path, "git", "exit 0")  # would archive the clone
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TPGDIFF_PAUSE": "0"}
    logs = tmp_path / "logs"
    done = bash("tpu_pod.sh", *POD, f"--logs={logs}", *more, "--", *FLAGS, **environment)
    calls = (gcloud.parent / "gcloud.calls").read_text()
    return done, calls


def test_a_slice_that_is_taken_away_is_made_again_until_the_run_is_done(tmp_path):
    done, calls = pod(tmp_path, 0, "--delete")
    assert done.returncode == 0, done.stderr
    assert "ended with 'the slice taken away'" in done.stderr
    verbs = re.findall(r"queued-resources (create|delete)", calls)
    assert verbs == ["create", "delete", "create", "delete"]
    assert (tmp_path / "logs" / "0.log").read_text() == "fine\n"


def test_a_run_that_goes_on_is_watched_again_and_not_started_a_second_time(tmp_path):
    (tmp_path / "gcloud.made").touch()
    (tmp_path / "gcloud.there").write_text("works\n0\n")
    done, calls = pod(tmp_path, 0, "--delete")
    assert done.returncode == 0, done.stderr
    assert "works on mine already" in done.stderr
    assert "nohup" not in calls
    assert "scp" not in calls
    assert (tmp_path / "logs" / "0.log").read_text() == "fine\n"


def test_a_run_with_other_flags_is_left_alone(tmp_path):
    (tmp_path / "gcloud.made").touch()
    (tmp_path / "gcloud.there").write_text("other\n")
    done, calls = pod(tmp_path, 0, "--delete")
    assert done.returncode == 1
    assert "the slice mine runs the program with other flags." in done.stderr
    for word in ("nohup", "scp", "delete"):
        assert word not in calls


def test_nothing_is_started_where_hosts_do_not_answer(tmp_path):
    (tmp_path / "gcloud.made").touch()
    gone = GCLOUD.replace("|| echo gone", "|| exit 255")
    done, calls = pod(tmp_path, 0, "--tries=1", stand_in=gone)
    assert done.returncode == 1
    assert "Try 1 could not be started." in done.stderr
    assert "nohup" not in calls


def test_a_slice_that_cannot_be_looked_at_for_a_while_is_not_taken_for_absent(tmp_path):
    (tmp_path / "gcloud.made").touch()
    (tmp_path / "gcloud.looks").write_text("3\n")  # is not taken away
    done, calls = pod(tmp_path, 0, again='touch "$0.again" "$0.offline"')
    assert done.returncode == 0, done.stderr
    assert "gcloud cannot look at it; it is tried again: ERROR: no network" in done.stderr
    assert " create " not in calls
    assert calls.count("nohup") == 1


def test_nothing_is_made_where_gcloud_cannot_look_at_all(tmp_path):
    (tmp_path / "gcloud.offline").touch()
    done, calls = pod(tmp_path, 0)
    assert done.returncode == 1
    assert "error: gcloud cannot tell whether there is a slice mine: ERROR: no net" in done.stderr
    assert " create " not in calls


def test_a_run_that_was_stopped_is_started_again(tmp_path):
    (tmp_path / "gcloud.made").touch()
    (tmp_path / "gcloud.looks").write_text("3\n")  # is not taken away
    code = '$([ -f "$0.stopped" ] && echo 0 || { touch "$0.stopped"; echo 75; })'
    done, calls = pod(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert "Try 1 ended with '75'." in done.stderr
    assert calls.count("nohup") == 2


def test_a_dry_run_tells_of_no_costs(tmp_path):
    done = bash("tpu_pod.sh", *POD, f"--logs={tmp_path}", "--dry-run", "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "costs" not in done.stderr


def test_a_mistake_is_not_tried_again(tmp_path):
    done, calls = pod(tmp_path, 2)
    assert done.returncode == 1
    assert "the program was refused; see" in done.stderr
    assert calls.count("nohup") <= 2
    assert "goes on, and costs, until you delete it" in done.stderr


def test_a_slice_is_deleted_after_a_mistake_too_where_that_was_asked_for(tmp_path):
    done, calls = pod(tmp_path, 2, "--delete")
    assert done.returncode == 1
    assert re.findall(r"queued-resources (create|delete)", calls)[-1] == "delete"
    assert "costs" not in done.stderr


def test_tries_are_limited(tmp_path):
    done, calls = pod(tmp_path, 1, "--tries=2")
    assert done.returncode == 1
    assert "not done after 2 tries" in done.stderr
    assert calls.count("nohup") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name=a", "--zone=b", "--", "--x"], "--name, --zone and --type are needed."),
        ([*POD], "no flags of the program"),
        ([*POD, "--workdir=x"], "--workdir=x is no flag of this script"),
        ([*POD, "--tries=x", "--", "--x"], "--tries=x: expected a whole number."),
    ],
)
def test_mistakes_are_one_sentence(arguments, words):
    done = bash("tpu_pod.sh", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
