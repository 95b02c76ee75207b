"""What the pages point to is there, and the README stays short."""

import re

import pages
import pytest

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_MOST_LINES = 130


def _anchors(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", pages.prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name_of)
def test_links_and_pictures_exist(page):
    missing = []
    for target in _LINK.findall(pages.prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            missing.append(target)
    assert not missing


def test_the_readme_links_every_page_and_is_short():
    text = pages.ROOT.joinpath("README.md").read_text()
    assert len(text.splitlines()) <= _MOST_LINES
    linked = {target.partition("#")[0] for target in _LINK.findall(text)}
    assert linked >= {f"docs/{page.name}" for page in pages.PAGES[1:]}


def test_every_picture_of_docs_is_shown():
    shown = {
        (page.parent / target).resolve()
        for page in (*pages.PAGES, pages.ROOT / "tpgdiff_jax/assets/MODEL_CARD.md")
        for target in _LINK.findall(page.read_text())
    }
    pictures = {path for kind in ("png", "jpg") for path in pages.ROOT.glob(f"docs/*.{kind}")}
    assert pictures <= shown
