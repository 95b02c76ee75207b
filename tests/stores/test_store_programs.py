"""Whole programs on a store: train, go on elsewhere, evaluate, restore, score in shares."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.commands import modes
from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.inference import job
from tpgdiff_jax.inference.input_images import Restored
from tpgdiff_jax.inference.weights import load_any
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.runs import on_store
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.runs.reading import abstract
from tpgdiff_jax.stores import copies, sending, urls
from tpgdiff_jax.stores.outputs import writing

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def photos(s3, put, photo_folder):
    """The address of a folder of three photos."""
    for path in photo_folder.iterdir():
        put(s3(f"photos/{path.name}"), path.read_bytes())
    return s3("photos")


def content(url):
    return urls.file_system(url).cat_file(urls.key_of(url))


def losses(text):
    return {row["step"]: row["loss"] for row in map(json.loads, text.splitlines())}


@pytest.fixture
def small(tiny_config):
    tiny_config.model.update({"use_semantic": False, "use_structure": False})
    return tiny_config


@pytest.mark.slow
def test_a_run_goes_on_on_another_machine_as_if_it_had_never_stopped(
    small, photos, s3, tmp_path, another_machine, monkeypatch, capsys
):
    straight = tmp_path / "straight"
    modes.train(small, straight)
    small.data.train_folder = photos
    with monkeypatch.context() as patch:
        questions = iter([False, False, True])  # before the first step, and after each
        patch.setattr(RunCheckpoints, "reached_preemption", lambda self: next(questions))
        modes.train(small, s3("run"))
    assert f"the same command continues the run in {s3('run')}" in capsys.readouterr().out
    assert losses(content(s3("run/metrics.jsonl")).decode()).keys() == {1, 2}

    another_machine()
    modes.train(small, s3("run"))
    expected = losses((straight / "metrics.jsonl").read_text())
    assert losses(content(s3("run/metrics.jsonl")).decode()) == pytest.approx(expected, rel=1e-6)
    steps = {name.split("/")[1] for name in copies.listing(s3("run")) if "checkpoints/" in name}
    assert steps == {path.name for path in (straight / "checkpoints").iterdir()}

    another_machine()
    _, _, _, fingerprint = load_any(s3("run"))
    assert fingerprint == load_any(straight)[3] == load_any(s3("run/weights.safetensors"))[3]

    small.data.eval_folder = photos
    modes.eval_(small, s3("run"))
    modes.eval_(small, straight)
    said = capsys.readouterr().out
    assert s3("run/evaluation/restored.png") in said
    scores = [
        json.loads(text)
        for text in (
            content(s3("run/evaluation/scores.json")),
            (straight / "evaluation" / "scores.json").read_text(),
        )
    ]
    assert scores[0] == scores[1]


def test_steps_of_a_run_are_read_on_another_machine(store, another_machine):
    state = {"kernel": jnp.arange(6.0)}
    shapes = abstract(state, {"kernel": state["kernel"].sharding})
    for start in (0, 3):
        with (
            on_store.training_in(store("run")) as folder,
            RunCheckpoints(folder / "checkpoints", keep=2) as checkpoints,
        ):
            found = checkpoints.restore_latest(shapes)
            if start:
                step, state, place = found
                assert (step, place) == (start, {"batches": start})
                np.testing.assert_array_equal(state["kernel"], np.arange(6.0) + start)
            for step in range(start + 1, start + 4):
                state = {"kernel": state["kernel"] + 1}
                checkpoints.save(step, state, {"batches": step})
        another_machine()
    with RunCheckpoints(on_store.reading(store("run")) / "checkpoints", keep=2) as checkpoints:
        assert checkpoints.all_steps() == [5, 6]
    newest = copies.local(store("run"), on_store.newest_steps)
    assert sorted(path.name for path in (newest / "checkpoints").iterdir()) == ["5", "6"]


def test_several_machines_score_into_a_store_in_shares_alone(s3, monkeypatch):
    monkeypatch.setattr(on_store.machines, "sharing", lambda folder: [0, 0, 2])
    with (
        pytest.raises(UserError, match=r"process 2 is on another machine .* in shares, one on "),
        on_store.scoring_in(s3("scores"), None),
    ):
        pytest.fail("nothing may be scored")
    assert not copies.listing(s3("scores"))


def test_checkpoints_themselves_are_written_to_local_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"s3://b/run: checkpoints are written to local folders"):
        RunCheckpoints("s3://b/run", keep=1)
    assert not (tmp_path / "s3:").exists()


def test_of_a_run_its_newest_steps_are_copied_and_no_pictures_of_it():
    names = [f"diffusion/checkpoints/{step}/{sending.STEP_MARK}" for step in (8, 9, 10)]
    names += ["priors/checkpoints/7/data/x", f"priors/checkpoints/6/{sending.STEP_MARK}"]
    names += ["diffusion/config.json", "diffusion/tensorboard/events", "pictures/a.png"]
    assert on_store.newest_steps(names) == [
        f"diffusion/checkpoints/10/{sending.STEP_MARK}",
        f"diffusion/checkpoints/9/{sending.STEP_MARK}",
        "diffusion/config.json",
        f"priors/checkpoints/6/{sending.STEP_MARK}",
    ]


@pytest.fixture
def weights(s3, tiny_system):
    """The address of weights with random numbers."""
    url = s3("w/tiny.safetensors")
    with writing(url) as path:
        description = published.describe(tiny_system.config)
        published.save(path, tiny_system.variables["params"], description)
    return url


def restore(monkeypatch, **typed):
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    usual = {"batch_size": 4, "spatial": 1, "compile_cache": False, "side_by_side": True}
    usual |= {"format": ".png", "share": None}
    options = {"guidance": [], "seed": 0, "steps": 1, "sampler": None}
    modes.restore(types.SimpleNamespace(**usual | typed), options)


def test_photos_of_a_store_are_restored_into_it(
    weights, photos, photo_folder, s3, tmp_path, another_machine, monkeypatch, capsys
):
    local = {"input": [str(photo_folder)], "output": str(tmp_path / "out")}
    restore(monkeypatch, checkpoint=weights, **local)
    typed = {"input": [photos], "output": s3("out"), "checkpoint": weights}
    restore(monkeypatch, **typed)
    assert f"3 restored, 0 were there already, 0 failed: {s3('out')}" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    there = set(copies.listing(s3("out")))
    assert {name for name in there if not name.startswith(".")} == names
    for name in names - {"restored.jsonl"}:
        assert content(s3(f"out/{name}")) == (tmp_path / "out" / name).read_bytes()

    another_machine()
    urls.file_system(photos).rm_file(urls.key_of(s3("out/1.png")))
    restore(monkeypatch, **typed)
    assert "1 restored, 2 were there already, 0 failed" in capsys.readouterr().out
    rows = [json.loads(line) for line in content(s3("out/restored.jsonl")).splitlines()]
    assert [row["input"] for row in rows].count(f"{photos}/1.png") == 2
    assert len(rows) == 4
    for typed["input"] in ([photos], [f"{photos}/*.png"]):
        changed = content(f"{photos}/1.png")[:-1] + bytes([len(typed["input"][0]) % 256])
        urls.file_system(photos).pipe_file(urls.key_of(f"{photos}/1.png"), changed)
        restore(monkeypatch, **typed)
        assert "1 restored, 2 were there already, 0 failed" in capsys.readouterr().out


def test_a_result_that_another_job_puts_into_a_store_meanwhile_stays_and_is_listed(
    weights, photos, s3, put, monkeypatch, capsys
):
    """The other job is another share, so both may write there."""
    output, run = s3("out"), job.run

    def run_with_another(*arguments, **options):
        put(f"{output}/1.png", b"of another job")
        line = {"name": f"{output}/1.png", "input": "/other/1.png", "content": "7-abc"}
        put(f"{output}/restored_1.jsonl", json.dumps(line).encode() + b"\n")
        return run(*arguments, **options)

    def answer_at_once(self, pictures, sampling, watch=None):
        return lambda: [Restored(picture.rebuild(picture.rgb), None, {}) for picture in pictures]

    monkeypatch.setattr(modes.Restorer, "start", answer_at_once)
    monkeypatch.setattr(job, "run", run_with_another)
    with pytest.raises(SystemExit):
        restore(monkeypatch, input=[photos], output=output, checkpoint=weights)
    said = capsys.readouterr().out
    assert "2 restored, 0 were there already" in said
    assert "1.png was made from /other/1.png" in said
    assert content(f"{output}/1.png") == b"of another job"
    assert b"was made from /other/1.png" in content(f"{output}/not_restored.jsonl")


def test_a_result_that_comes_while_another_is_written_stays(store, put):
    put(store("a.png"), b"of another job")
    black = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(FileExistsError, match=r"a\.png"):
        write_image(store("a.png"), black, replaces=False)
    assert content(store("a.png")) == b"of another job"
    write_image(store("b.png"), black, replaces=False)
    write_image(store("a.png"), black)
    assert content(store("a.png")) == content(store("b.png"))


def test_a_store_that_refuses_results_stops_the_job(weights, photos, monkeypatch, capsys):
    from tpgdiff_jax.data import images

    def refuse(url, data):
        raise OSError(5, f"{url} cannot be used: denied")

    monkeypatch.setattr(images, "put", refuse)
    output = f"{photos}_out"
    with pytest.raises(SystemExit):
        restore(monkeypatch, input=[photos], output=output, checkpoint=weights)
    said = capsys.readouterr().out
    assert "stopped: " in said
    assert "denied; 3 files are left" in said


@pytest.mark.slow
def test_shares_of_a_benchmark_on_several_machines_make_the_report_of_one(
    weights, photos, photo_folder, s3, tmp_path, another_machine
):
    from tpgdiff_jax.config import base_config

    config = base_config()
    config.benchmark.metrics = ("psnr",)
    config.benchmark.sets = (
        {"name": "noise", "folder": "photos", "layout": "clean", "gt": "", "sigma": 25.0},
    )

    def score(root, folder, share=None, merge=False):
        config.benchmark.root = root
        flags = {"checkpoint": weights, "predictions": None, "share": share, "merge": merge}
        modes.benchmark(config, types.SimpleNamespace(**flags), folder)

    score(str(photo_folder.parent), tmp_path / "alone")
    for share in ((0, 2), (1, 2)):
        another_machine()
        score(photos.rpartition("/")[0], s3("scores"), share)
    another_machine()
    score(photos.rpartition("/")[0], s3("scores"), merge=True)
    found = json.loads(content(s3("scores/summary.json")))
    alone = json.loads((tmp_path / "alone" / "summary.json").read_text())
    assert found["variants"] == alone["variants"]
    assert found["sets"] == alone["sets"]
    assert len([name for name in copies.listing(s3("scores")) if "restored/" in name]) == 3


# -- Real processes -----------------------------------------------------------------------------


@pytest.fixture
def train(tiny_experiment, tmp_path, _machine):
    """`train("machine", url, *flags)` -> a process that trains there."""
    started = []

    def start(machine, url, *flags):
        words = [sys.executable, "-m", "tpgdiff_jax.main", f"--config={tiny_experiment}"]
        words += [f"--workdir={url}", "--config.model.use_semantic=False"]
        words += ["--config.model.use_structure=False", *flags]
        place = {"XDG_CACHE_HOME": str(tmp_path / machine), "PYTHONUNBUFFERED": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(words, cwd=ROOT, env=os.environ | place, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_step(process, url):
    """Return once a whole step is in the store."""
    deadline = time.monotonic() + 240
    while not any("_CHECKPOINT_METADATA" in name for name in copies.listing(url)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.5)


def train_until_saved(train, photos, url, *, steps, every):
    """Start a training; return (it, its flags) once a whole step is in the store."""
    flags = (f"--config.data.train_folder={photos}", f"--config.optim.steps={steps}")
    flags += (f"--config.checkpoint.every_steps={every}",)
    process = train("first", url, *flags)
    wait_for_step(process, url)
    return process, flags


@pytest.mark.slow
def test_a_killed_run_is_continued_elsewhere(train, photos, s3):
    process, flags = train_until_saved(train, photos, s3("run"), steps=600, every=50)
    other = train("second", s3("run"), *flags)
    said = other.communicate(timeout=300)[1]
    assert other.returncode == 2
    assert f"error: {s3('run')}: another program writes there" in said
    process.send_signal(signal.SIGKILL)
    process.communicate()

    process = train("second", s3("run"), *flags)  # waits a minute, and sees no sign of life
    out, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    assert f"Continuing the run in {s3('run')} at step " in said
    found = losses(content(s3("run/metrics.jsonl")).decode())
    assert list(found) == list(range(1, 601))  # no step is missing, none is there twice


@pytest.mark.slow
def test_sigterm_sends_the_last_step(train, photos, s3):
    process, _ = train_until_saved(train, photos, s3("run"), steps=2000, every=100)
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    saved = said.rpartition("saved at step ")[2].split()[0]
    assert f"checkpoints/{saved}/_CHECKPOINT_METADATA" in copies.listing(s3("run"))


@pytest.fixture
def join(train, photos, free_address):
    """`join(("one", "two"), url, *flags)` -> processes that train one run, one on each machine."""

    def start(machines, url, *flags):
        flags += (f"--config.data.train_folder={photos}", f"--coordinator={free_address}")
        flags += (f"--num_processes={len(machines)}",)
        return [
            train(machine, url, *flags, f"--process_id={index}")
            for index, machine in enumerate(machines)
        ]

    return start


def ends(processes):
    """Return the codes of processes, and what they said."""
    said = [process.communicate(timeout=400)[1] for process in processes]
    return [process.returncode for process in processes], said


@pytest.mark.slow
def test_machines_with_no_folder_in_common_train_one_run(join, s3):
    flags = ("--config.mesh.fsdp=2", '--config.sharding=((".*", "fsdp"),)')
    for machines, name in ((("one", "one"), "alone"), (("two", "three"), "run")):
        codes, said = ends(join(machines, s3(name), *flags))
        assert codes == [0, 0], said
    expected = losses(content(s3("alone/metrics.jsonl")).decode())
    assert losses(content(s3("run/metrics.jsonl")).decode()) == expected
    assert content(s3("run/weights.safetensors")) == content(s3("alone/weights.safetensors"))


@pytest.mark.slow
def test_another_number_of_machines_goes_on_when_one_was_lost(join, s3):
    flags = ("--config.optim.steps=100000", "--config.checkpoint.every_steps=20")
    processes = join(("one", "two"), s3("run"), *flags)
    wait_for_step(processes[0], s3("run"))
    processes[1].send_signal(signal.SIGKILL)
    codes, said = ends(processes)
    assert codes == [3, -signal.SIGKILL], said
    assert "error: process 1 of 2" in said[0]
    before = len(losses(content(s3("run/metrics.jsonl")).decode()))

    processes = join(("four", "five", "six", "seven"), s3("run"), *flags)
    deadline = time.monotonic() + 400
    while len(losses(content(s3("run/metrics.jsonl")).decode())) <= before:
        assert processes[0].poll() is None, ends(processes)
        assert time.monotonic() < deadline
        time.sleep(0.5)
    processes[0].send_signal(signal.SIGTERM)
    codes, said = ends(processes)
    assert codes == [0] * 4, said
    assert f"Continuing the run in {s3('run')} at step " in said[0]
    found = list(losses(content(s3("run/metrics.jsonl")).decode()))
    assert found == list(range(1, len(found) + 1))
    assert f"checkpoints/{found[-1]}/_CHECKPOINT_METADATA" in copies.listing(s3("run"))
