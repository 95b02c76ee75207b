"""Python examples in the pages run, with the package's own weights and small pictures."""

import functools
import shutil

import pages
import pytest
from PIL import Image

from tpgdiff_jax import Restorer
from tpgdiff_jax.checkpoints.published import DEFAULT_WEIGHTS

PHOTOS = "configs/quickstart_photos"
NAMES = ("real/text.png", "eval/rocket.jpg")  # of those that the pages name
SIDE = 64  # pixels: one compiled program serves all pages
WITH_EXAMPLES = [page for page in pages.PAGES if pages.blocks(page, "python")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder that holds what the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    with Image.open(pages.ROOT / PHOTOS / NAMES[0]) as picture:
        small = picture.convert("RGB").resize((SIDE, SIDE))
    for name in (*(f"{PHOTOS}/{name}" for name in NAMES), "photo.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        small.save(folder / name)
    (folder / "weights").mkdir()
    for path in (DEFAULT_WEIGHTS, DEFAULT_WEIGHTS.with_suffix(".json")):
        shutil.copy(path, folder / "weights" / f"tpgdiff{path.suffix}")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _load_once():
    """Let all pages share one system on one device; those on several devices are loaded anew."""
    load = Restorer.load
    one = functools.cache(load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Restorer, "load", staticmethod(lambda **mesh: load(**mesh) if mesh else one())
        )
        yield


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=pages.name_of)
def test_examples_run(page, folder, monkeypatch, golden_weights):
    monkeypatch.chdir(folder)
    names = {"__name__": "example"}
    if page.name == "weights.md":
        # A released UNet, as someone would have read it from a .pth file.
        names["state_dict"] = golden_weights("unet_nf32")
    for text in pages.blocks(page, "python"):
        exec(compile(text, pages.name_of(page), "exec"), names)


def test_there_are_examples():
    assert {page.name for page in WITH_EXAMPLES} >= {"README.md", "restoring.md", "weights.md"}
