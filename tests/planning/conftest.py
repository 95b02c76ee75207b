"""Programs compiled for TPUs that are not there."""

import importlib.util

import pytest


@pytest.fixture
def libtpu():
    """Skip where the TPU compiler is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (pip install 'tpgdiff_jax[plan]')")
