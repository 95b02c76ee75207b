"""A bug inside a mode is not shown as the user's fault."""

import contextlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tpgdiff_jax.commands import config_checks, modes
from tpgdiff_jax.config import base_config
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.runs import preemption
from tpgdiff_jax.training import experiment

_OF_OTHER_MODES = ("cv2", "grain", "optax", "orbax", "scipy", "tensorstore")
_START = """
import sys
from tpgdiff_jax.commands import flags, addresses, modes
flags.checked_config(None)
print(*sys.modules)
"""


def test_restoring_starts_without_what_other_modes_need():
    """A photo should not wait for training; such imports took half a second."""
    said = subprocess.run(
        [sys.executable, "-c", _START], capture_output=True, text=True, check=True
    )
    assert {"jax", "flax"} <= set(said.stdout.split())
    assert not set(_OF_OTHER_MODES) & set(said.stdout.split())


def test_the_settings_of_who_names_no_experiment_are_valid():
    config_checks.validate(base_config())


def _broken(*_, **__):
    raise ValueError("matmul: Input operand 1 has a mismatch")


def test_a_bug_while_building_a_stage_is_no_user_error(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "build_stage", _broken)
    with pytest.raises(ValueError, match="matmul") as caught:
        modes.train(tiny_config, tmp_path / "run")
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("is_interrupted", "is_finished", "code"),
    [(False, False, 75), (True, False, 130), (False, True, None)],
)
def test_a_stopped_run_leaves_as_the_environment_says(
    tiny_config, tmp_path, monkeypatch, is_interrupted, is_finished, code
):
    monkeypatch.setenv("TPGDIFF_STOPPED_EXIT_CODE", "75")
    monkeypatch.setattr(experiment, "train", lambda *_: is_finished)
    monkeypatch.setattr(preemption, "was_interrupted", lambda: is_interrupted)
    with pytest.raises(SystemExit) if code else contextlib.nullcontext() as left:
        modes.train(tiny_config, tmp_path / "run")
    assert code is None or left.value.code == code


def test_a_bug_while_loading_weights_is_no_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(modes, "load_suited", _broken)
    flags = SimpleNamespace(checkpoint="default", predictions=None, share=None, merge=False)
    with pytest.raises(ValueError, match="matmul") as caught:
        modes.benchmark(base_config(), flags, tmp_path)
    assert not isinstance(caught.value, UserError)


def test_eval_says_before_it_scores_that_its_report_cannot_be_written(
    tiny_config, tmp_path, monkeypatch
):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    stage = SimpleNamespace(config=tiny_config)
    found = stage, tmp_path, None, None, None
    monkeypatch.setattr(experiment, "load", lambda *_: found)
    monkeypatch.setattr(experiment, "open_eval_data", _broken)
    tiny_config.data.eval_folder = "photos"
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        modes.eval_(tiny_config, tmp_path)
