"""A bug inside a mode is not shown as the user's fault."""

from types import SimpleNamespace

import pytest

from tpgdiff_jax.commands import modes
from tpgdiff_jax.config import base_config
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.training import experiment


def _broken(*_, **__):
    raise ValueError("matmul: Input operand 1 has a mismatch")


def test_a_bug_while_building_a_stage_is_no_user_error(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "build_stage", _broken)
    with pytest.raises(ValueError, match="matmul") as caught:
        modes.train(tiny_config, tmp_path / "run")
    assert not isinstance(caught.value, UserError)


def test_a_bug_while_loading_weights_is_no_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(modes, "load_suited", _broken)
    flags = SimpleNamespace(checkpoint="default", predictions=None, share=None, merge=False)
    with pytest.raises(ValueError, match="matmul") as caught:
        modes.benchmark(base_config(), flags, tmp_path)
    assert not isinstance(caught.value, UserError)
