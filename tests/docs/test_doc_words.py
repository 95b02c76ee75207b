"""The words of the field: images are degraded, not harmed."""

import re

import pages

# Harmless pickles, harmonics, a key of the configuration, a field of a bundled file.
KEPT = re.compile(r"harmless|harmonic|least_harm|\"harm\"")
SUFFIXES = (".py", ".sh", ".md", ".j2", ".json")


def test_pages_and_code_say_degraded():
    files = [pages.ROOT / "README.md", pages.ROOT / "pyproject.toml"]
    for folder in ("docs", "tpgdiff_jax", "configs", "launch"):
        files += [path for path in pages.ROOT.glob(f"{folder}/**/*") if path.suffix in SUFFIXES]
    wrong = [
        f"{path.relative_to(pages.ROOT)}: {line.strip()}"
        for path in files
        for line in path.read_text().splitlines()
        if "harm" in KEPT.sub("", line).lower()
    ]
    assert not wrong
