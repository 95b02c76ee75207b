"""JSON without the numbers that JSON lacks."""

import json
import math

import numpy as np
import pytest

from tpgdiff_jax.reporting import json_text


def test_numbers_that_json_lacks_become_text_that_python_reads_back():
    data = {"a": math.inf, "b": [-math.inf, (math.nan, 1.5)], "c": np.float64(np.inf), "d": None}
    text = json_text.dumps(data)
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found == {"a": "inf", "b": ["-inf", ["nan", 1.5]], "c": "inf", "d": None}
    assert float(found["a"]) == math.inf


def test_all_else_is_written_as_json_writes_it():
    data = {"x": [1, 2.5, "text", True, None, {"y": 1e-300}]}
    assert json_text.dumps(data) == json.dumps(data)
    assert json_text.dumps(data, indent=2) == json.dumps(data, indent=2)
