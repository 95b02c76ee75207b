"""A service on a tiny system."""

import pathlib

import pytest
from app_files import LIMITS, PHOTO
from PIL import Image

from tpgdiff_jax.app.service import Service
from tpgdiff_jax.inference.restore import Restorer


@pytest.fixture(scope="session")
def restorer(tiny_system):
    """A `Restorer` of a tiny system with random weights: 2 steps, two degradations."""
    return Restorer(tiny_system.model, tiny_system.variables, tiny_system.config)


@pytest.fixture
def service(restorer, tmp_path):
    """A `Service` that offers one example."""
    sample = tmp_path / "example.png"
    Image.fromarray(PHOTO).save(sample)
    return Service(restorer, tmp_path / "page", LIMITS, {"example": sample})


@pytest.fixture
def upload(service):
    """`upload(name, content)` -> where the web server would have laid it."""

    def lay(name: str, content: bytes) -> pathlib.Path:
        folder = service.store.uploads / f"{len(list(service.store.uploads.iterdir()))}"
        folder.mkdir()
        (folder / name).write_bytes(content)
        return folder / name

    return lay
