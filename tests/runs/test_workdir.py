"""A run's folder belongs to one configuration, and to one program at a time."""

import io
import json
import os
import tempfile

import pytest

from tpgdiff_jax.config import base_config
from tpgdiff_jax.reporting.errors import RunStoppedError, UserError
from tpgdiff_jax.runs.workdir import only_run, prepare_workdir, write_config


def test_two_programs_do_not_train_in_one_folder(tmp_path):
    with (
        only_run(tmp_path),
        pytest.raises(RunStoppedError, match="another program is training"),
        only_run(tmp_path),
    ):
        pass
    with only_run(tmp_path):  # free again
        pass


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_a_full_disk_is_said_before_anything_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    with pytest.raises(UserError, match=r"\(No space left on device\)\. Check free space"):
        prepare_workdir(base_config(), tmp_path / "run")


def test_sources_may_move_but_not_change(tmp_path):
    config = base_config()
    config.data.train_sources = ("photos:/old/clean", "pairs:/old/rain*0.5")
    prepare_workdir(config, tmp_path / "run")
    write_config(config, tmp_path / "run")
    config.data.train_sources = ("photos:/new/place", "pairs:/new/rain*0.5")
    prepare_workdir(config, tmp_path / "run")
    for other in (
        ("photos:/old/clean", "pairs:/old/rain*0.25"),
        ("photos:/old/clean",),
        ("pairs:/old/rain*0.5", "photos:/old/clean"),
    ):
        config.data.train_sources = other
        with pytest.raises(UserError, match=r"data\.train_sources: "):
            prepare_workdir(config, tmp_path / "run")


def test_a_folder_is_recognised_and_strangers_files_are_left_alone(tmp_path):
    config = base_config()
    folder = tmp_path / "run"
    prepare_workdir(config, folder)
    write_config(config, folder)
    with only_run(folder):
        prepare_workdir(config, folder)
    moved = base_config()
    moved.data.train_folder = "/elsewhere/photos"  # checkpoints know what was read from it
    prepare_workdir(moved, folder)
    other = base_config()
    other.optim.learning_rate = 1.0
    with pytest.raises(ValueError, match=r"optim\.learning_rate: 0\.0002 -> 1\.0"):
        prepare_workdir(other, folder)
    quickstart = tmp_path / "quickstart"
    quickstart.mkdir()
    (quickstart / "first_restoration.png").touch()  # made before the training in this folder
    prepare_workdir(config, quickstart)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files but no run.*quickstart, run, thesis\.txt"):
        prepare_workdir(config, tmp_path)


def test_what_may_change_is_stored_anew_so_that_the_weights_are_used_with_it(tmp_path):
    config, folder = base_config(), tmp_path / "run"
    prepare_workdir(config, folder)
    write_config(config, folder)
    path = folder / "config.json"
    before = path.stat().st_mtime_ns
    write_config(config, folder)
    assert path.stat().st_mtime_ns == before
    config.priors.weights = "/new/frozen.safetensors"
    config.eval.ema_decay, config.eval.sampler = 0.9995, "ode2"
    prepare_workdir(config, folder)
    write_config(config, folder)
    stored = json.loads(path.read_text())
    assert stored["priors"]["weights"] == "/new/frozen.safetensors"
    assert (stored["eval"]["ema_decay"], stored["eval"]["sampler"]) == (0.9995, "ode2")
