"""Pictures of files come through `data/pictures` alone."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[3] / "tpgdiff_jax"
# Making degradations of JPEG, and drawing reports, are no reading of a user's files.
_OWN_FILES = ("data/degradations/coding.py",)


def test_no_other_file_opens_pictures():
    opens = re.compile(
        r"Image\.open\(|imread\(|imdecode\(|TiffFile\(|import (tifffile|imagecodecs)"
    )
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted(ROOT.rglob("*.py"))
        if opens.search(path.read_text()) and "pictures" not in path.parent.name
    ]
    assert found == list(_OWN_FILES)
