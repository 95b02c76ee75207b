"""Files appear whole or not at all."""

import pytest

from tpgdiff_jax.reporting.files import replacing, write_text


def test_a_text_is_written_whole_with_names_that_are_no_text(tmp_path):
    path = tmp_path / "new" / "report.md"
    write_text(path, "ä \udce9\n")
    assert path.read_text(encoding="utf-8") == "ä \\udce9\n"
    assert [p.name for p in path.parent.iterdir()] == ["report.md"]


def test_what_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
