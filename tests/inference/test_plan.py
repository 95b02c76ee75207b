"""Every input has a result of its own, and what cannot be read is among them, to be listed."""

import logging
import os
import pathlib

import pytest

from tpgdiff_jax.data.pictures.door import read_size
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.inference import result_names
from tpgdiff_jax.inference.plan import check_besides, plan
from tpgdiff_jax.reporting.errors import UserError


def _touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def _results(inputs, output, suffix=".png"):
    return {
        str(task.source.relative_to(output.parent)): task.target.relative_to(output).as_posix()
        for task in plan([str(text) for text in inputs], output, suffix)
    }


def test_files_that_differ_in_their_ending_alone_keep_it(tmp_path, caplog):
    _touch(tmp_path / "in", "a.jpg", "a.png", "a.tif", "b.jpg", "sub/a.jpg")
    output = tmp_path / "out"
    expected = {
        "in/a.png": "a.png",
        "in/a.jpg": "a.jpg.png",
        "in/a.tif": "a.tif.png",
        "in/b.jpg": "b.png",
        "in/sub/a.jpg": "sub/a.png",
    }
    with caplog.at_level(logging.INFO, logger="absl"):
        assert _results([tmp_path / "in"], output) == expected
    assert [text.rpartition("/")[2] for text in caplog.messages] == [
        "a.jpg becomes a.jpg.png.",
        "a.tif becomes a.tif.png.",
    ]
    (tmp_path / "in" / "a.jpg.jpg").touch()
    found = _results([tmp_path / "in"], output)
    assert len(set(found.values())) == len(found) == 6
    assert found["in/a.jpg.jpg"] == "a.jpg.png"


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path):
    _touch(tmp_path, "x/a.jpg", "y/a.jpg", "deep/y/a.jpg", "y/b.jpg")
    found = _results([tmp_path / "x", tmp_path / "y", tmp_path / "deep/y"], tmp_path / "out")
    assert found["y/b.jpg"] == "b.png"
    assert len(set(found.values())) == len(found) == 4
    assert found == _results(
        [tmp_path / "deep/y", tmp_path / "y", tmp_path / "x"], tmp_path / "out"
    )


def test_files_that_differ_by_case_alone_have_results_of_their_own(tmp_path, monkeypatch):
    _touch(tmp_path / "in", "A.png", "a.png", "B/1.jpg", "b/1.jpg", "c.jpg")
    kept = {f"in/{name}": name for name in ("A.png", "a.png")}
    kept |= {"in/B/1.jpg": "B/1.png", "in/b/1.jpg": "b/1.png", "in/c.jpg": "c.png"}
    output, asked = tmp_path / "out", []
    assert _results([tmp_path / "in"], output) == kept
    monkeypatch.setattr(result_names, "ignores_case", lambda folder: asked.append(folder) or True)
    found = _results([tmp_path / "in"], output)
    assert len({name.casefold() for name in found.values()}) == len(found) == 5
    assert (found["in/A.png"], found["in/a.png"]) == ("A.png", "in/a.png")
    assert found["in/c.jpg"] == "c.png"
    assert asked == [output]
    _results([tmp_path / "in" / "c.jpg"], output)
    assert asked == [output]  # most jobs need no look at the disk


def test_a_picture_beside_one_result_is_no_other_one_that_differs_by_case(tmp_path, monkeypatch):
    _touch(tmp_path / "in", "a.png", "A.deviation.png")
    tasks = plan([str(tmp_path / "in")], tmp_path / "out")
    check_besides(tasks, ["deviation"])
    monkeypatch.setattr(result_names, "ignores_case", lambda folder: True)
    with pytest.raises(UserError, match=r"A\.deviation\.png and the deviation picture of .*a\.png"):
        check_besides(tasks, ["deviation"])


def test_one_file_named_twice_is_restored_once(tmp_path, monkeypatch):
    _touch(tmp_path / "in", "a.jpg")
    monkeypatch.chdir(tmp_path)
    tasks = plan(["in", "in/a.jpg", str(tmp_path / "in" / "*.jpg")], pathlib.Path("out"))
    assert [task.source for task in tasks] == [pathlib.Path("in/a.jpg")]


def test_links_that_lead_nowhere_and_locked_folders_are_tasks_that_fail(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    _touch(folder, "a.jpg", "locked/b.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    sources = {task.source.name: task.source for task in plan([str(folder)], tmp_path / "out")}
    assert set(sources) == {"a.jpg", "gone.jpg", "locked"}
    for name, words in (
        ("gone.jpg", "a link to nowhere.jpg, which does not exist"),
        ("locked", r"a folder that may not be read \(permission denied\)"),
    ):
        with pytest.raises(UnreadableImageError, match=words):
            read_size(sources[name])
    assert plan([str(folder / "gone.jpg")], tmp_path / "out")
    assert len(plan([str(folder / "*.jpg")], tmp_path / "out")) == 2


@pytest.mark.parametrize("typed", ["in", "in/*", "in/a.jpg", "."])
def test_a_link_to_itself_is_a_task_that_fails(tmp_path, typed):
    _touch(tmp_path / "in", "b.jpg")
    (tmp_path / "in" / "a.jpg").symlink_to("a.jpg")
    tasks = plan([str(tmp_path / typed)], tmp_path / "out")
    with pytest.raises((UnreadableImageError, OSError)):
        read_size(next(task.source for task in tasks if task.source.name == "a.jpg"))


def test_many_files_need_a_look_at_their_folder_alone(tmp_path, monkeypatch):
    _touch(tmp_path / "in", *(f"{number}.jpg" for number in range(30)))
    real, calls = os.path.realpath, []
    monkeypatch.setattr(
        os.path, "realpath", lambda *args, **more: calls.append(args) or real(*args, **more)
    )
    for typed in ("in", "in/*"):
        assert len(plan([str(tmp_path / typed)], tmp_path / "in" / "out")) == 30
    assert len(calls) < 30


def test_what_was_left_out_is_said_where_nothing_is_left(tmp_path):
    _touch(tmp_path / "in", "a.dng", "b.dng", "notes.txt")
    words = r"holds no image files but 2 pictures left out, of kinds that are not read: a\.dng, b"
    with pytest.raises(ValueError, match=words):
        plan([str(tmp_path / "in")], tmp_path / "out")
    with pytest.raises(ValueError, match=r"matches folders alone, such as .*in; name a folder"):
        plan([str(tmp_path / "i*")], tmp_path / "out")


def test_home_folders_and_folders_with_brackets(tmp_path, monkeypatch):
    _touch(tmp_path, "my [2024] photos/a.jpg", "~odd/a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    output = tmp_path / "out"
    for text in ("~/my [2024] photos", "~/my [2024] photos/*.jpg", "my [2024] photos/a.jpg"):
        assert [task.target.name for task in plan([text], output)] == ["a.png"]
    assert len(plan(["~odd"], output)) == 1


@pytest.mark.parametrize(
    "name", ["a\nb.jpg", "-rf.jpg", "a*b?.jpg", "ü\u0301 图.jpg", "'\".jpg", "a;b&.jpg"]
)
def test_names_of_any_kind(tmp_path, name):
    _touch(tmp_path / "in", name)
    expected = {f"in/{name}": name.replace(".jpg", ".png")}
    assert _results([tmp_path / "in"], tmp_path / "out") == expected
    assert _results([tmp_path / "in" / name], tmp_path / "out") == expected


def test_an_output_that_is_named_like_a_picture_is_refused_unless_it_is_a_folder(tmp_path):
    _touch(tmp_path / "in", "a.png")
    output = tmp_path / "fixed.JPG"
    with pytest.raises(UserError, match=r"fixed\.JPG is named like .*=FOLDER --format=\.JPG"):
        plan([str(tmp_path / "in")], output)
    output.mkdir()
    assert _results([tmp_path / "in"], output) == {"in/a.png": "a.png"}


def test_a_picture_beside_one_result_is_never_another_result(tmp_path):
    _touch(tmp_path / "in", "a.png", "a.side_by_side.png", "b.png")
    tasks = plan([str(tmp_path / "in")], tmp_path / "out")
    check_besides(tasks, ["deviation"])
    with pytest.raises(UserError, match=r"of .*a\.side_by_side\.png and the side_by_side"):
        check_besides(tasks, ["deviation", "side_by_side"])
