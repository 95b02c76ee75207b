"""A run that is killed, asked to end and started again is, to the bit, one that never stopped."""

import json
import signal

import jax
import pytest
from training_runs import assert_same, final, finish, metrics, start, wait_until

STEPS = 40


@pytest.fixture
def config(tiny_config):
    tiny_config.optim.steps = STEPS
    tiny_config.checkpoint.every_steps = 10
    tiny_config.ema.more_decays = (0.9,)
    tiny_config.model.dropout_structure = 0.2
    tiny_config.model.use_semantic = False  # half as much to compile
    return tiny_config


def test_killed_asked_to_end_and_continued_equals_straight_through(experiment, config, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(start(experiment, straight))
    assert (straight / "weights.safetensors").is_file()

    # Killed while step 20 is being written (or, if that was too quick to be seen, right after).
    process = start(experiment, broken)
    steps = broken / "checkpoints"
    wait_until(lambda: list(steps.glob("20*")), process)
    process.send_signal(signal.SIGKILL)
    process.wait()

    # Asked to end: saved between two regular saves, and no failure.
    process = start(experiment, broken)
    wait_until(lambda: max(metrics(broken), default=0) >= 24, process)
    process.send_signal(signal.SIGTERM)
    output, errors = finish(process)
    assert "Continuing the run" in errors
    assert "SIGTERM" in errors
    assert "the same command continues" in output
    assert not (broken / "weights.safetensors").exists()
    reached = max(metrics(broken))
    assert 24 <= reached < STEPS

    _, errors = finish(start(experiment, broken))
    assert f"at step {reached} of {STEPS}" in errors
    assert_same(config, straight, broken)
    assert len(final(config, broken)[0].more_ema) == 1
    starts = [json.loads(line) for line in (broken / "starts.jsonl").read_text().splitlines()]
    assert len(starts) == 3
    assert starts[0]["versions"]["jax"] == jax.__version__
