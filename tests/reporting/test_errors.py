"""Only the user's faults become a sentence."""

import pytest

from tpgdiff_jax.reporting.errors import RunStoppedError, UserError, plain_errors
from tpgdiff_jax.runs.reading import CheckpointError


@pytest.mark.parametrize("kind", [UserError, RunStoppedError, CheckpointError])
def test_a_fault_of_the_user_is_one_sentence(kind, capsys):
    with pytest.raises(SystemExit) as left, plain_errors():
        raise kind("--output=x holds something else; choose another folder.")
    assert left.value.code == 2
    expected = "error: --output=x holds something else; choose another folder.\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("kind", [ValueError, TypeError, KeyError])
def test_a_fault_of_ours_keeps_its_traceback(kind, capsys):
    with pytest.raises(kind, match="matmul") as caught, plain_errors():
        raise kind("matmul: Input operand 1 has a mismatch in its core dimension 0")
    assert caught.traceback[-1].name == "test_a_fault_of_ours_keeps_its_traceback"
    assert not capsys.readouterr().err


def test_callers_that_expect_a_value_error_still_catch_it():
    with pytest.raises(ValueError, match=r"config\.seed"):
        raise UserError("config.seed=-1: expected zero or more.")
