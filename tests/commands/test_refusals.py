"""Whatever is typed wrongly becomes one sentence that names it and what is right."""

import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import jax
import pytest

import tpgdiff_jax
from tpgdiff_jax.commands import flags as typed
from tpgdiff_jax.commands import mode_flags, modes, processes, refusing
from tpgdiff_jax.commands.processes import Joining
from tpgdiff_jax.reporting.errors import UserError

QUICKSTART = "--config=configs/quickstart.py"


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parent.parent.parent)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # A flag of another mode, and what does there what it promises.
        ([QUICKSTART, "--checkpoint=/no/such"], ["--checkpoint", "train", "--config.init_from"]),
        ([QUICKSTART, "--input=photos"], ["--input", "--config.data.train_folder"]),
        ([QUICKSTART, "--steps=7"], ["--steps", "--config.optim.steps"]),
        ([QUICKSTART, "--seed=9"], ["--seed", "--config.seed"]),
        ([QUICKSTART, "--batch_size", "1"], ["--batch_size", "--config.data.batch_size"]),
        ([QUICKSTART, "--side_by_side"], ["--side_by_side", "--mode=restore"]),
        ([QUICKSTART, "--nopreview"], ["--preview", "--mode=prepare"]),
        (
            [QUICKSTART, "--mode=eval", "--checkpoint=W", "--steps=1"],
            ["--steps", "--mode=eval with --checkpoint", "--config.benchmark.steps"],
        ),
        ([QUICKSTART, "--mode=eval", "--steps=1"], ["--steps", "--config.eval.steps"]),
        ([QUICKSTART, "--mode=eval", "--output=x"], ["--output", "--checkpoint"]),
        ([QUICKSTART, "--mode=export", "--checkpoint=x"], ["--checkpoint", "--workdir=RUN"]),
        (["--mode=restore", "--workdir=x"], ["--workdir", "--checkpoint=RUN"]),
        (["--mode=convert", "--checkpoint=x"], ["--checkpoint", "--input=FILE"]),
        # The same with keys of the configuration.
        (["--mode=restore", QUICKSTART], ["--config", "--steps"]),
        (
            ["--mode=restore", QUICKSTART, "--config.eval.steps=1"],
            ["--config.eval.steps", "set --steps"],
        ),
        (["--mode=restore", "--config.eval.steps=1"], ["--config.eval.steps", "set --steps"]),
        (
            [QUICKSTART, "--mode=eval", "--checkpoint=W", "--config.eval.steps=1"],
            ["--config.eval.steps", "--config.benchmark.steps"],
        ),
        (
            [QUICKSTART, "--mode=eval", "--predictions=W", "--config.optim.steps=1"],
            ["--config.optim.steps", "benchmark.*, mesh.*"],
        ),
        ([QUICKSTART, "--config.benchmark.steps=1"], ["--config.benchmark.steps", "--mode=eval"]),
        # Modes and flags that are none.
        (["--mode=resotre", "--input=x"], ["--mode=resotre", "nearest: --mode=restore"]),
        (["--mode", "Restore"], ["--mode=Restore", "nearest: --mode=restore"]),
        (["restore"], ["'restore'", "--mode=restore"]),
        (["README.md"], ["'README.md'", "--mode=restore --input=README.md", "in quotes"]),
        (["--mode=restore", "--input", "LICENSE", "docs"], ["'docs'", "--input=docs"]),
        (["configs/quickstart.py"], ["write --config=configs/quickstart.py."]),
        ([], ["--config is missing", "--mode=restore --input=PHOTO", "--help"]),
        (["stray", QUICKSTART], ["'stray'", "start with --"]),
        ([QUICKSTART, "--ouput=x"], ["--ouput", "nearest: --output"]),
        (["--mode=restore", "--imput=x"], ["--imput", "nearest: --input"]),
        (["--imput=x"], ["--imput", "nearest: --input"]),
        (["--input=x", "--checkpoint=y"], ["add --mode=restore"]),
        # Values that a shell's variable did not bring: of a path, "" would be this folder.
        (["--mode=restore", "--input="], ["--input=: its value is empty", "variable"]),
        (["--mode=restore", "--input=a", "--input", ""], ["--input=: its value is empty"]),
        (["--mode=restore", "--input=a", "--output="], ["--output=: its value is empty"]),
        (["--mode=restore", "--input=a", "--sampler="], ["--sampler=: its value is empty"]),
        (["--mode=serve", "--host="], ["--host=: its value is empty"]),
        ([QUICKSTART, "--workdir="], ["--workdir=: its value is empty"]),
        # Values of another kind.
        (["--mode=restore", "--steps=abc"], ["--steps=abc", "a whole number", "--steps=100"]),
        (["--mode=restore", "--steps"], ["--steps: expected a whole number"]),
        ([QUICKSTART, "--config.model.width"], ["--config.model.width: expected a whole number"]),
        (["--mode=restore", "--steps=0"], ["--steps=0", "at least 1"]),
        (["--mode=restore", "--seed=-1"], ["--seed=-1", "from 0 to 4294967295"]),
        (["--mode=restore", "--seed", "-1"], ["--seed=-1", "from 0 to 4294967295"]),
        (["--mode=restore", "--seed=4294967296"], ["--seed=4294967296", "4294967295"]),
        (["--mode=restore", f"--seed={'9' * 20}"], [f"--seed={'9' * 20}", "4294967295"]),
        (["--mode=restore", "--share=8/8"], ["--share=8/8", "I/N", "for example --share=0/8"]),
        (["--mode=restore", "--share=1"], ["--share=1", "I/N"]),
        ([QUICKSTART, "--share=0/2"], ["--share", "--mode=restore"]),
        (["--mode=restore", "--merge"], ["--merge", "--mode=eval with --checkpoint"]),
        ([QUICKSTART, "--distributed=yes"], ["--distributed=yes", "one of auto, on, off"]),
        (["--mode=convert", "--to=theirs"], ["--to=theirs", "one of ours, released"]),
        (
            [QUICKSTART, "--config.optim.steps=1e3"],
            ["optim.steps=1e3: expected a whole number"],
        ),
        ([QUICKSTART, "--config.model.use_semantic=maybe"], ["=maybe", "True or False"]),
        ([QUICKSTART, "--config.optim.learning_rate=fast"], ["=fast: expected a", "number"]),
        (
            [QUICKSTART, "--config.data.degradations=noise,blur"],
            ["noise,blur: expected a tuple", "degradations=\"('noise', 'blur')\"."],
        ),
        ([QUICKSTART, "--config.data.severity="], ["a tuple", 'severity="(1.0, 5.0)"']),
        ([QUICKSTART, "--config.data.severity=(1,"], ["(1,: expected a tuple"]),
        (["--flagfile"], ["--flagfile: no file is named"]),
        (["--flagfile=tests/golden/ema.npz"], ["--flagfile: it holds bytes that are no text"]),
        (["--flagfile=/no/flags"], ["--flagfile", "/no/flags (No such file or directory)"]),
    ],
)
def test_mistakes_on_the_command_line(parse, arguments, words):
    with pytest.raises(UserError) as refused:
        parse(*arguments)
    assert all(word in str(refused.value) for word in words), str(refused.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.data.train_folder=/nowhere"], ["/nowhere", "does not exist"]),
        (["--config.data.train_folder="], ["data.train_folder", "are empty"]),
        (["--workdir=/proc/nothing/here"], ["/proc/nothing/here", "cannot be written"]),
        (["--config.mesh.data=3"], ["data=3", "8 devices"]),
        (["--config.data.crop_size=4000"], ["smaller than", "4000"]),
        (["--config.model.prediction=y"], ["model.prediction", "noise, x0, v"]),
        (["--config.seed=-1"], ["config.seed=-1", "from 0 to"]),
        (
            ["--config.eval.seed=4294967296"],
            ["config.eval.seed=4294967296", "from 0 to 4294967295"],
        ),
        (["--num_processes=2", "--process_id=1"], ["--num_processes=2 alone", "--coordinator"]),
        (["--coordinator=localhost"], ["--coordinator=localhost", "HOST:PORT"]),
        (["--coordinator=host:99999"], ["--coordinator=host:99999", "HOST:PORT"]),
        (
            ["--coordinator=host:1", "--num_processes=2", "--process_id=2"],
            ["--process_id=2", "from 0 to 1"],
        ),
        (
            ["--distributed=off", "--coordinator=host:1"],
            ["--distributed=off runs one process", "--coordinator=host:1"],
        ),
    ],
)
def test_mistakes_found_before_training(parse, tiny_experiment, tmp_path, flags, words):
    found = parse(f"--config={tiny_experiment}", f"--workdir={tmp_path / 'run'}", *flags)
    with pytest.raises(UserError) as refused:
        _start(found)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def _start(found) -> None:
    """What main does, without joining other processes."""
    config = typed.checked_config(found["config"].value)
    processes.check_processes(processes.joining(found))
    modes.run(config, found)


@pytest.mark.parametrize(
    ("joined", "words"),
    [
        (
            ("on", None, None, None),
            ["--distributed=on: JAX finds no", "--num_processes=N", "Slurm: "],
        ),
        (("auto", "host:1", None, None), ["--coordinator=host:1: JAX finds no", "--process_id=I"]),
        (("auto", "host:1", 2, None), ["add --process_id=I, or"]),
    ],
)
def test_processes_that_do_not_find_each_other(monkeypatch, joined, words):
    def fail(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    monkeypatch.setattr(processes, "_wait_for", lambda _: None)
    with pytest.raises(UserError) as refused:
        processes.join_processes(Joining(*joined))
    assert all(word in str(refused.value) for word in words), str(refused.value)
    with pytest.raises(ValueError, match="should be defined") as bug:
        processes.join_processes(Joining("auto", "host:1", 2, 1))
    assert not isinstance(bug.value, UserError)


def test_folder_with_foreign_files_is_left_alone(parse, tiny_experiment, tmp_path):
    workdir = tmp_path / "documents"
    workdir.mkdir()
    (workdir / "thesis.txt").write_text("precious")
    found = parse(f"--config={tiny_experiment}", f"--workdir={workdir}")
    with pytest.raises(UserError, match=r"holds files but no run.*thesis\.txt"):
        _start(found)
    assert [path.name for path in workdir.iterdir()] == ["thesis.txt"]


def test_what_a_mode_reads_is_taken(parse):
    found = parse("--mode=restore", "--input=a", "--input", "b", "--noexact_size", "--seed", "3")
    assert (found.mode, found.input, found.seed) == ("restore", ["a", "b"], 3)


def test_keys_may_follow_without_an_equals_sign(parse):
    found = parse(QUICKSTART, "--config.optim.steps", "3", "--config.model.use_semantic")
    assert found.config.optim.steps == 3
    assert found.config.model.use_semantic is True


@pytest.mark.parametrize(
    "text", ["noise", '("noise", "blur")', "('noise',)", '["noise"]', '"noise"']
)
def test_tuples_may_be_written_in_several_ways(parse, text):
    found = parse(QUICKSTART, f"--config.data.degradations={text}")
    assert next(iter(found.config.data.degradations)) == "noise"


def test_flags_may_stand_in_a_file(parse, tmp_path):
    path = tmp_path / "flags.txt"
    path.write_text(f"# mine\n{QUICKSTART}\n--config.optim.steps=3\n--workdir=runs/mine\n")
    found = parse(f"--flagfile={path}")
    assert found.config.optim.steps == 3
    assert found.workdir == "runs/mine"
    path.write_text("--mode=restore\n--input=photo.jpg\n")
    assert parse("--flagfile", path).mode == "restore"


def test_mistakes_in_a_flag_file_are_named_as_elsewhere(parse, tmp_path):
    path = tmp_path / "flags.txt"
    path.write_text(f"{QUICKSTART}\n--config.optim.stepz=3\n")
    with pytest.raises(UserError, match=r"config\.optim\.stepz.*nearest: optim\.steps"):
        parse(f"--flagfile={path}")


def test_the_workdir_is_named_for_the_experiment_in_a_flag_file(parse, tmp_path):
    path = tmp_path / "flags.txt"
    path.write_text(f"{QUICKSTART}\n")
    parse(f"--flagfile={path}")
    assert typed.default_workdir(sys.argv) == pathlib.Path("runs/quickstart")


def test_a_tilde_is_the_users_folder(parse, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found = parse("--mode=restore", "--input=~/in", "--input=a~b", "--output=~/out")
    assert found.input == ["/home/me/in", "a~b"]
    assert found.output == "/home/me/out"


def test_the_table_names_flags_that_exist(parse):
    found = parse("--mode=restore")
    for mode in mode_flags.MODES.values():
        assert set(mode.reads) <= set(found)
    for program, instead in refusing._INSTEAD.items():
        about = mode_flags.MODES[program]
        assert not set(instead) & set(about.reads)
        for name, hint in instead.items():
            assert name in found
            for flag in re.findall(r"--(\w+)(?!\w*\.)", hint):
                assert flag in found or flag == "config"


@pytest.mark.parametrize("mode", mode_flags.TYPED_MODES)
def test_help_lists_what_a_mode_reads_in_the_tables_order(parse, capsys, mode):
    with pytest.raises(SystemExit) as left:
        parse(f"--mode={mode}", "--help")
    assert left.value.code == 0
    said = capsys.readouterr().out
    reads = mode_flags.MODES[mode].reads
    assert [name for name in re.findall(r"^  --(\w+)", said, re.M) if name in reads] == list(reads)
    assert max(map(len, said.splitlines())) <= 110


def test_versions_are_told_without_a_mode(parse, capsys):
    with pytest.raises(SystemExit) as left:
        parse("--version")
    assert left.value.code == 0
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert (said["tpgdiff_jax"], said["jax"]) == (tpgdiff_jax.__version__, jax.__version__)
    assert {"python", "commit", "dirty", "platform"} <= said.keys()


def test_help_ends_quietly_where_nobody_reads_on():
    command = [sys.executable, "-m", "tpgdiff_jax.main", "--help"]
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does, after ten lines
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_platforms_that_jax_lacks_are_one_sentence(monkeypatch):
    def fail():
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "local_devices", fail)
    with pytest.raises(UserError, match=r"JAX_PLATFORMS=cuda cannot be used.*JAX_PLATFORMS=cpu"):
        processes.check_devices()


def test_a_first_process_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr(processes, "_PATIENCE", 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # but listens to nobody
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UserError, match=f"{address}: nothing answers there.*process 0"):
            processes.join_processes(Joining("auto", address, 2, 1))
    with pytest.raises(UserError, match=r"no host is called 'no-such-host\.invalid'"):
        processes.join_processes(Joining("auto", "no-such-host.invalid:1", 2, 1))


def test_a_port_that_is_taken_is_one_sentence():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UserError, match=f"{address}: process 0 cannot use this port"):
            processes.join_processes(Joining("auto", address, 2, 0))


def test_other_processes_wait_until_the_first_listens(monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: joined.append(given))
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{first.getsockname()[1]}"
        later = threading.Timer(0.5, first.listen)
        later.start()
        processes.join_processes(Joining("auto", address, 2, 1))
        later.join()
    assert joined == [(address, 2, 1)]
