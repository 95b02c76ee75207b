"""What a folder tells of earlier starts: a finished first stage, or checkpoints that are gone."""

import errno
import shutil

import numpy as np
import pytest

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.config import stage_config
from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.runs.reading import CheckpointError
from tpgdiff_jax.stores import places
from tpgdiff_jax.training import earlier_starts
from tpgdiff_jax.training.validate_stage_one import StageOneScores


@pytest.fixture
def first(tiny_config):
    """Stage one's configuration."""
    tiny_config.stage_one.optim.steps = 7
    return stage_config(tiny_config, "priors")


def publish(config, workdir, **changes):
    path = workdir / published.WEIGHTS_NAME
    path.unlink(missing_ok=True)
    said = {"stage": "priors", "trained_steps": 7, "ema_decay": config.ema.decay} | changes
    published.save(path, {}, published.describe(config) | said)


def test_stage_one_is_finished_once_its_last_weights_are_published(first, tmp_path):
    assert not earlier_starts.is_stage_one_finished(first, tmp_path)
    publish(first, tmp_path)
    assert earlier_starts.is_stage_one_finished(first, tmp_path)
    first.model.width *= 2  # of stage two
    first.eval.steps = 3
    assert earlier_starts.is_stage_one_finished(first, tmp_path)


def test_stage_one_is_finished_once_it_is_scored_unless_only_its_weights_are_left(first, tmp_path):
    first.data.eval_folder = "photos"
    publish(first, tmp_path)
    save(tmp_path)
    assert not earlier_starts.is_stage_one_finished(first, tmp_path)  # its scoring was cut off
    StageOneScores(("noise",), np.eye(1, dtype=int), 0.5, 0.4).write(tmp_path / "evaluation")
    assert earlier_starts.is_stage_one_finished(first, tmp_path)
    shutil.rmtree(tmp_path / "evaluation")
    shutil.rmtree(tmp_path / "checkpoints")
    assert earlier_starts.is_stage_one_finished(first, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"trained_steps": 6}, {"stage": "diffusion"}, {"ema_decay": 0.5}, {"degradations": ["rain"]}],
)
def test_other_weights_do_not_finish_stage_one(first, tmp_path, changes):
    publish(first, tmp_path, **changes)
    assert not earlier_starts.is_stage_one_finished(first, tmp_path)


def save(workdir):
    (workdir / "metrics.jsonl").touch()
    with RunCheckpoints(workdir / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(1, {"x": np.ones(3)}, {})


MISSING = r"The checkpoints of --workdir=.* are missing.*Put them back"


@pytest.mark.parametrize("lost", ["checkpoints", "checkpoints/1"])
def test_a_run_that_lost_its_only_checkpoint_does_not_begin_again(tmp_path, lost):
    earlier_starts.refuse_lost(tmp_path)  # a new run
    save(tmp_path)
    shutil.rmtree(tmp_path / lost)
    with pytest.raises(RunStoppedError, match=MISSING):
        earlier_starts.refuse_lost(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()  # all that `rm -r RUN/*` removes
    earlier_starts.refuse_lost(tmp_path)


def test_a_run_whose_first_save_failed_begins_again(tmp_path, monkeypatch):
    async def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("orbax.checkpoint._src.path.async_path.rename", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(tmp_path)
    earlier_starts.refuse_lost(tmp_path)


def test_a_run_in_a_store_may_be_removed_there_and_begun_again(tmp_path):
    save(tmp_path)
    places.remember(tmp_path, "s3://bucket/run")
    earlier_starts.refuse_lost(tmp_path)


def test_published_weights_show_that_a_run_has_saved(first, tmp_path):
    publish(first, tmp_path)
    with pytest.raises(RunStoppedError, match=MISSING):
        earlier_starts.refuse_lost(tmp_path)
