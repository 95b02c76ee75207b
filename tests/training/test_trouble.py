"""Steps that were not finite: which are found, what is written down, when a run ends."""

import json

import numpy as np
import pytest

from tpgdiff_jax.config import base_config, differences, stage_config, to_json
from tpgdiff_jax.training.trouble import NonFiniteError, StepRecord, Watch, recipes_of


def record(step, loss=1.0, **metrics):
    bad = not np.isfinite(loss)
    values = {"loss": loss, "gradient_norm": 2.0, "bad_step": float(bad), **metrics}
    values = {name: np.float32(value) for name, value in values.items()}
    example = {"label": np.array([1, 0]), "severity": np.array([[0, 3], [5, 0]])}
    example |= {"recipe_seed": np.array([11, 12]), "gt": np.zeros((2, 4, 4, 3), np.uint8)}
    return StepRecord(step, values, recipes_of(example))


def test_a_step_that_waits_to_be_read_keeps_no_images():
    seeds = np.arange(2)
    found = recipes_of({"gt": np.zeros((2, 4, 4, 3)), "recipe_seed": seeds})
    assert found.keys() == {"recipe_seed"}
    assert not np.shares_memory(found["recipe_seed"], seeds)  # a worker's buffer, used again


@pytest.fixture
def config():
    config = base_config()
    config.data.degradations = ("noise", "haze")
    return config


def test_means_leave_out_what_a_batch_lacked(config, tmp_path):
    watch = Watch(config, tmp_path)
    watch.add(record(1, 1.0, **{"class/haze": np.nan, "class/noise": np.nan}))
    watch.add(record(2, 3.0, **{"class/haze": 5.0, "class/noise": np.nan}))
    assert watch.pending == 2
    means = watch.collect()
    assert means["loss"] == 2
    assert means["class/haze"] == 5
    assert np.isnan(means["class/noise"])
    assert "bad_step" not in means
    assert "skipped_steps" not in means
    assert watch.pending == 0


def test_a_bad_step_stops_the_run_and_can_be_looked_into(config, tmp_path):
    config.seed = 42
    watch = Watch(config, tmp_path)
    for each in (record(7), record(8, np.nan), record(9, np.nan)):
        watch.add(each)
    with pytest.raises(NonFiniteError, match=r"Step 8: loss nan.*bad_step_8\.json.*learning_rate"):
        watch.collect()
    found = json.loads((tmp_path / "bad_step_8.json").read_text())
    assert found["step"] == 8
    assert found["seed"] == 42
    assert found["batch"] == {
        "label": [1, 0],
        "severity": [[0, 3], [5, 0]],
        "recipe_seed": [11, 12],
    }
    assert found["degradations"] == ["noise", "haze"]
    assert [path.name for path in tmp_path.iterdir()] == ["bad_step_8.json"]


def test_skipped_steps_are_counted_and_too_many_in_a_row_stop_the_run(config, tmp_path):
    config.optim.update({"non_finite": "skip", "max_skipped": 2})
    watch = Watch(config, tmp_path)
    for each in (record(1), record(2, np.inf), record(3, np.nan), record(4, 3.0)):
        watch.add(each)
    means = watch.collect()
    assert means["loss"] == 2
    assert means["skipped_steps"] == 2
    # The count goes on over reports: two here, the third one in the next.
    for each in (record(5, np.nan), record(6, np.nan)):
        watch.add(each)
    assert watch.collect()["skipped_steps"] == 2
    watch.add(record(7, np.nan))
    with pytest.raises(NonFiniteError, match=r"Step 7.*bad step number 3 in a row"):
        watch.collect()


def test_a_report_of_bad_steps_only_has_no_loss(config, tmp_path):
    config.optim.non_finite = "skip"
    watch = Watch(config, tmp_path)
    watch.add(record(1, np.nan))
    means = watch.collect()
    assert np.isnan(means["loss"])
    assert means["skipped_steps"] == 1


@pytest.mark.parametrize(
    ("stage", "non_finite", "group", "key", "value"),
    [
        ("diffusion", "stop", "optim", "non_finite", "skip"),
        ("diffusion", "skip", "optim", "max_skipped", 99),
        ("priors", "stop", "stage_one.optim", "non_finite", "skip"),
    ],
)
def test_what_is_proposed_for_the_same_run_is_not_refused_there(
    config, tmp_path, stage, non_finite, group, key, value
):
    config.update_from_flattened_dict({f"{group}.non_finite": non_finite, "optim.max_skipped": 0})
    watch = Watch(stage_config(config, stage), tmp_path)
    watch.add(record(7, np.nan))
    with pytest.raises(NonFiniteError, match="the same command") as error:
        watch.collect()
    now, new = str(error.value).split("in a new --workdir")[0].rsplit(", or ", 1)
    assert f"config.{group}.{key}" in now
    assert f"config.{group}.learning_rate" in new
    assert ("--config.init_from" in str(error.value)) == (stage == "diffusion")
    path = tmp_path / "config.json"
    path.write_text(to_json(stage_config(config, stage)))
    config.update_from_flattened_dict({f"{group}.{key}": value})
    assert differences(stage_config(config, stage), path) == []
    config.update_from_flattened_dict({f"{group}.learning_rate": 0.5})
    assert differences(stage_config(config, stage), path)
