"""Real photos, and pairs made of them."""

import pathlib

import pytest

from tpgdiff_jax.data.sources import PhotoFolder

PHOTOS = pathlib.Path(__file__).parents[2] / "configs" / "quickstart_photos"


@pytest.fixture(scope="module")
def photos():
    """A few real photos."""
    folder = PhotoFolder(PHOTOS)
    return [{"name": folder.name(i), "image": folder[i][:200, :240]} for i in range(4)]


@pytest.fixture(scope="module")
def pairs(photos):
    """Pairs of real photos and darker copies."""
    return [
        {
            "name": photo["name"],
            "lq": photo["image"] // 3,
            "gt": photo["image"],
            "label": number % 2,
            "recipe": {"low_light": {"exposure": 0.3, "seed": number}},
        }
        for number, photo in enumerate(photos)
    ]
