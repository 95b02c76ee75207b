"""Processes that would not train the same are refused; the other process is faked."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from tpgdiff_jax.distributed import agreement
from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.training import experiment, same_training

WEIGHTS = {"unet": {"kernel": np.ones(3, np.float32)}}


@dataclasses.dataclass
class Process:
    """What one process knows."""

    config: object
    start: dict = dataclasses.field(default_factory=dict)
    fingerprint: dict = dataclasses.field(
        default_factory=lambda: {"images": 4, "identity": "a", "frozen": "f"}
    )

    def check(self):
        stage = types.SimpleNamespace(config=self.config, start=self.start)
        same_training.check_same_training(
            stage, types.SimpleNamespace(fingerprint=self.fingerprint)
        )


@pytest.fixture
def check(tiny_config, monkeypatch):
    """`check(change)` -> both processes train, the second one as `change` leaves it."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def run(change):
        both = (
            Process(tiny_config.copy_and_resolve_references()),
            Process(tiny_config.copy_and_resolve_references()),
        )
        change(both[1])
        said = []
        monkeypatch.setattr(
            agreement.multihost_utils,
            "process_allgather",
            lambda own: said.append(own) or np.stack([own, own]),
        )
        both[1].check()
        heard = iter(said)
        monkeypatch.setattr(
            agreement.multihost_utils,
            "process_allgather",
            lambda own: np.stack([own, next(heard)]),
        )
        both[0].check()

    return run


def set_key(**groups):
    def change(process):
        for group, values in groups.items():
            process.config[group].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (set_key(optim={"learning_rate": 0.5}), r"config\.optim\.learning_rate \(here 0\.001\)\."),
        (set_key(checkpoint={"every_steps": 77}), r"config\.checkpoint\.every_steps"),
        (set_key(data={"eval_folder": "/photos"}), r"config\.data\.eval_folder"),
        (lambda process: process.start.update(WEIGHTS), r"the weights in config\.init_from"),
        (lambda process: process.fingerprint.update(images=3), r"the training images \(here 4, a"),
        (lambda process: process.fingerprint.update(frozen="g"), r"the frozen networks' weights"),
    ],
)
def test_what_differs_is_named(check, change, named):
    words = "Process 1 does not train what process 0 trains. They differ in " + named
    with pytest.raises(RunStoppedError, match=words):
        check(change)


def test_processes_of_other_stages_are_refused_first(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        agreement.multihost_utils, "process_allgather", lambda own: np.stack([own, own + 1])
    )
    with pytest.raises(RunStoppedError, match=r"differ in config\.stage \(here diffusion\)"):
        experiment.train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_version_of_the_package_is_named_before_its_keys(check, monkeypatch):
    versions = iter(["0.0.1", "0.1.0"])

    class Package:
        @property
        def __version__(self):
            return next(versions)

    monkeypatch.setattr(same_training, "tpgdiff_jax", Package())
    with pytest.raises(RunStoppedError, match=r"differ in the package tpgdiff_jax \(here 0\.1\.0"):
        check(lambda process: None)


def test_each_machine_has_its_own_paths_and_workers(check):
    own = {"workers": 3, "cache_mb": 1, "train_folder": "/elsewhere"}
    check(set_key(data=own, benchmark={"steps": (3,)}))


def test_a_process_alone_compares_nothing(tiny_config):
    Process(tiny_config, fingerprint={}).check()
