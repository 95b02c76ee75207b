"""A set of weights has one fingerprint, wherever it is written down."""

import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of, groups_of


def test_a_fingerprint_knows_names_and_values():
    weights = {"a": {"w": np.arange(3.0)}, "b": np.ones(2)}
    same = {"b": np.ones(2), "a": {"w": np.arange(3.0)}}
    assert fingerprint_of(weights) == fingerprint_of(same)
    for other in (
        {"a": {"v": np.arange(3.0)}, "b": np.ones(2)},
        {"a": {"w": np.arange(3.0)}, "b": np.zeros(2)},
        {"a": {"w": np.arange(3.0)}, "b": np.ones((2, 1))},
    ):
        assert fingerprint_of(weights) != fingerprint_of(other)


def test_the_type_that_values_are_stored_in_does_not_count():
    values = np.array([0.5, -3, 128], np.float32)
    kinds = (np.float16, jnp.bfloat16, np.float32, np.float64)
    assert len({fingerprint_of({"w": values.astype(kind)}) for kind in kinds}) == 1


def test_groups_are_those_of_a_file():
    variables = {
        "params": {"unet": 1, "structure": 2},
        "frozen": {"semantic": 3, "structure": {"depth": 4}},
    }
    assert groups_of(variables) == {"unet": 1, "structure": 2, "semantic": 3, "depth": 4}
    assert variables["frozen"]["structure"] == {"depth": 4}
