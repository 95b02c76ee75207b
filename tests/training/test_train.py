"""The training loop: what it does after which step.  Its parts are faked; no network is run."""

import types

import jax
import numpy as np
import pytest

from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.keys.use import SEED
from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.training import program, train
from tpgdiff_jax.training.validate import LeftEarlyError


class Checkpoints:
    """Notes what is saved; says at which step an end is asked for."""

    def __init__(self, said, end_at):
        self.said, self.end_at, self.asked = said, end_at, -1

    def reached_preemption(self):
        self.asked += 1  # once before the first step
        return self.end_at is not None and self.asked >= self.end_at

    def save(self, step, state, place, scores):
        self.said.append(("save", step, state, place["batches"], scores))

    def check(self):
        pass

    def wait(self):
        self.said.append(("wait",))


class Report:
    """Notes what is told."""

    def __init__(self, said):
        self.said = said

    def advance(self):
        pass

    def write(self, step, metrics):
        self.said.append(("write", step, metrics.get("loss", "validation")))

    def picture(self, name, image, step):
        self.said.append(("picture", step))

    def event(self, text):
        self.said.append(("event", text))


class Watch:
    """Reports the loss of the last step."""

    def __init__(self, *_):
        self.pending = 0

    def add(self, record):
        self.pending, self.last = self.pending + 1, record

    def collect(self):
        self.pending = 0
        return {"loss": self.last.metrics}


@pytest.fixture
def loop(tiny_config, tmp_path, monkeypatch):
    """`loop(validates=..., end_at=..., start=0, asks=0)` -> (outcome, what was done, in order).

    A validation asks `asks` times whether to end.
    """
    config = tiny_config
    config.optim.steps, config.checkpoint.every_steps, config.log.every_steps = 6, 4, 2
    config.eval.every_steps = 3
    quiet = {
        "step_program": lambda *_: lambda state, *_: (state + 1, state + 1),
        "_compiled": lambda step_fn, *_: (step_fn, train.StepClock()),
        "_base_key": lambda run: None,
        "to_global": lambda batch, *_, **__: batch,
        "averaged": lambda state, _: state,
        "recipes_of": lambda example: [],
        "Watch": Watch,
    }
    for name, fake in quiet.items():
        monkeypatch.setattr(train, name, fake)

    (tmp_path / "config.json").touch()  # a run's folder is known by it

    def run(validates=True, end_at=None, start=0, asks=0):
        said = []

        def validate(params, is_asked):
            if any(is_asked() for _ in range(asks)):
                raise LeftEarlyError
            said.append(("validate", params))
            return {"psnr": 20.0 + params, train.TEST: 1.0}, np.zeros((2, 2, 3), np.uint8)

        stage = types.SimpleNamespace(config=config)
        data = types.SimpleNamespace(fingerprint={"images": 3}, check=lambda share: None)
        parts = train._Run(
            *(stage, tmp_path, data, None, None, None),
            Checkpoints(said, end_at),
            Report(said),
            validate if validates else None,
        )
        shapes = program.batch_shapes(config)
        batch = {name: np.zeros(shape.shape) for name, shape in shapes.items()}
        batches = iter([batch] * 100)
        return train._loop(parts, start, start, batches), said

    return run


def only(said, *kinds):
    return [entry[:2] for entry in said if entry[0] in kinds]


def test_a_run_saves_validates_and_reports_in_its_rhythm(loop):
    outcome, said = loop()
    assert (outcome.state, outcome.is_finished, outcome.is_preempted) == (6, True, False)
    # Before the first step, every third, and the last.
    assert only(said, "validate") == [("validate", 0), ("validate", 3), ("validate", 6)]
    assert outcome.is_validated
    # Every fourth step, the last, and whatever was validated.
    assert only(said, "save") == [("save", 3), ("save", 4), ("save", 6)]
    losses = [entry[1] for entry in said if entry[0] == "write" and entry[2] != "validation"]
    assert losses == [2, 3, 4, 6]


def test_a_checkpoint_holds_the_state_its_place_and_its_scores(loop):
    _, said = loop()
    saves = {entry[1]: entry[2:] for entry in said if entry[0] == "save"}
    assert saves[3] == (3, 3, {"psnr": 23.0, train.TEST: 1.0})
    assert saves[4] == (4, 4, None)
    # The loss is reported before the scores, the scores before the save.
    after = said[said.index(("write", 3, 3)) :]
    kinds = [entry[0] for entry in after[:5]]
    assert kinds == ["write", "validate", "write", "picture", "save"]


def test_without_photos_nothing_is_validated(loop):
    outcome, said = loop(validates=False)
    assert not outcome.is_validated
    assert only(said, "validate", "picture") == []
    assert only(said, "save") == [("save", 4), ("save", 6)]


def test_a_continued_run_does_not_validate_its_start_again(loop):
    outcome, said = loop(start=4)
    assert only(said, "validate") == [("validate", 6)]
    assert outcome.state == 6


@pytest.mark.parametrize("step", [1, 3, 5])
def test_who_is_asked_to_end_saves_at_once_and_validates_no_more(loop, step):
    outcome, said = loop(end_at=step)
    assert (outcome.state, outcome.is_finished, outcome.is_preempted) == (step, False, True)
    assert said[-3][:2] == ("save", step)
    assert said[-2] == ("wait",)
    assert f"saved at step {step} of 6; the same command continues" in said[-1][1]
    assert ("validate", step) not in said


def test_a_validation_during_which_an_end_is_asked_for_is_left_and_the_step_saved(loop):
    # Questions: before the first step, in the validation there (10), at 3 steps, in that of step 3.
    outcome, said = loop(end_at=1 + 9 + 3 + 5, asks=10)
    assert (outcome.state, outcome.is_finished, outcome.is_preempted) == (3, False, True)
    assert only(said, "validate") == [("validate", 0)]
    assert said[-3] == ("save", 3, 3, 3, None)
    assert said[-2] == ("wait",)
    assert "(SIGTERM): left the validation; saved at step 3 of 6; the same" in said[-1][1]


def test_the_validation_before_the_first_step_is_left_with_nothing_to_save(loop):
    outcome, said = loop(end_at=5, asks=10)
    assert (outcome.state, outcome.is_finished, outcome.is_preempted) == (0, False, True)
    assert [entry[0] for entry in said] == ["event"]
    assert "left the validation before the first step" in said[0][1]


def test_the_validation_of_the_last_step_is_left_and_the_run_is_finished(loop):
    outcome, said = loop(start=5, end_at=5, asks=10)
    assert (outcome.state, outcome.is_finished, outcome.is_preempted) == (6, True, True)
    assert not outcome.is_validated
    assert said[-1] == ("save", 6, 6, 6, None)


def test_who_is_asked_to_end_in_the_last_step_is_finished(loop):
    outcome, said = loop(end_at=6)
    assert outcome.is_finished
    assert outcome.is_preempted
    assert only(said, "event") == []


def test_a_finished_run_takes_no_step(loop):
    outcome, said = loop(start=6)
    assert (outcome.state, outcome.is_finished, outcome.is_validated) == (6, True, False)
    assert only(said, "save", "validate", "write") == []


def test_labels_are_numbers_or_one_per_degradation(tiny_config):
    def label():
        return program.batch_shapes(tiny_config)["label"]

    assert (label().shape, label().dtype) == ((8,), np.int32)
    tiny_config.data.max_mixed = 2
    assert (label().shape, label().dtype) == ((8, 2), np.float32)
    tiny_config.data.update({"max_mixed": 1, "clean_share": 0.1})
    assert label().shape == (8, 2)
    image = program.batch_shapes(tiny_config)["lq"]
    assert (image.shape, image.dtype) == ((8, 16, 16, 3), np.uint8)


def test_the_mixture_is_the_configurations(tiny_config):
    tiny_config.data.update({"severity": (2.0, 3.0), "mix_share": 0.25, "max_mixed": 2})
    mixture = train.mixture_of(tiny_config)
    assert mixture.names == ("noise", "haze")
    assert (mixture.severity, mixture.mix_share, mixture.max_mixed) == ((2.0, 3.0), 0.25, 2)


def test_a_folder_that_was_moved_ends_the_run(loop, tmp_path):
    (tmp_path / "config.json").unlink()
    with pytest.raises(RunStoppedError, match=f"{tmp_path} was moved or removed"):
        loop()


@pytest.mark.parametrize("seed", [0, 5, 2**31 - 1, 2**32 - 1])
def test_every_seed_that_the_configuration_takes_makes_a_key(tiny_config, seed):
    assert SEED.fits(seed)
    tiny_config.seed = seed
    mesh = sharding.make_mesh(dict.fromkeys(sharding.AXES, 1), jax.devices()[:1])
    key = train._base_key(types.SimpleNamespace(config=tiny_config, mesh=mesh))
    expected = [0, (seed + 1) % 2**32]
    assert jax.random.key_data(key).tolist() == expected
