"""What a folder tells of earlier starts: a finished first stage, or checkpoints that are gone."""

import json

import pytest

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.config import stage_config
from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.runs.workdir import write_config
from tpgdiff_jax.stores import places
from tpgdiff_jax.training import earlier_starts


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


@pytest.mark.parametrize(
    "changes",
    [{"trained_steps": 6}, {"stage": "diffusion"}, {"ema_decay": 0.5}, {"degradations": ["rain"]}],
)
def test_other_weights_do_not_finish_stage_one(first, tmp_path, changes):
    publish(first, tmp_path, **changes)
    assert not earlier_starts.is_stage_one_finished(first, tmp_path)


def report(workdir, last):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in range(1, last + 1)]
    (workdir / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 99']))


@pytest.mark.parametrize(("last", "is_sign"), [(1, False), (8, False), (9, True)])
def test_a_run_that_reported_past_its_second_save_has_saved(tiny_config, tmp_path, last, is_sign):
    tiny_config.checkpoint.every_steps, tiny_config.optim.steps = 4, 20
    write_config(tiny_config, tmp_path)
    report(tmp_path, last)
    sign = earlier_starts.sign_of_checkpoints(tmp_path)
    assert sign == (f"metrics.jsonl has step {last}" if is_sign else "")
    # Hence it is asked before the next start, maybe of another rhythm, stores its own.
    tiny_config.checkpoint.every_steps = 100
    write_config(tiny_config, tmp_path)
    assert earlier_starts.sign_of_checkpoints(tmp_path) == ""


def test_metrics_that_reached_a_store_before_a_step_are_no_sign(tiny_config, tmp_path):
    tiny_config.checkpoint.every_steps = 1
    write_config(tiny_config, tmp_path)
    report(tmp_path, 9)
    places.remember(tmp_path, "s3://bucket/run")
    assert earlier_starts.sign_of_checkpoints(tmp_path) == ""


def test_a_new_run_begins_and_one_that_lost_its_checkpoints_does_not(first, tmp_path):
    earlier_starts.refuse_lost(tmp_path, earlier_starts.sign_of_checkpoints(tmp_path))
    publish(first, tmp_path)
    sign = earlier_starts.sign_of_checkpoints(tmp_path)
    words = r"The checkpoints of --workdir=.* are missing.*\(weights\.safetensors\)\. Put them back"
    with pytest.raises(RunStoppedError, match=words):
        earlier_starts.refuse_lost(tmp_path, sign)
