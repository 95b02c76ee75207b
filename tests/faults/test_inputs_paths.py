"""Names and links that lead out of where results belong: nothing is written there."""

import numpy as np
import pytest

from tpgdiff_jax.benchmark.job import IMAGES, Job, image_path
from tpgdiff_jax.benchmark.sets import Item, SetSpec
from tpgdiff_jax.benchmark.settings import Variant
from tpgdiff_jax.benchmark.work import Task
from tpgdiff_jax.data.images import encode_png, write_image
from tpgdiff_jax.data.prepare import paired_set
from tpgdiff_jax.inference import plan
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import stays_inside

PHOTO = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


@pytest.fixture
def photos(tmp_path):
    """A folder with one photo in a sub-folder."""
    write_image(tmp_path / "photos" / "below" / "a.png", PHOTO)
    return tmp_path / "photos"


def test_a_pattern_cannot_name_a_result_outside(photos, tmp_path):
    write_image(tmp_path / "x.png", PHOTO)
    with pytest.raises(UserError, match=r"lies outside --output"):
        plan.plan([f"{photos}/*/../../x.png"], tmp_path / "out")


def test_a_linked_folder_in_the_output_is_not_followed(photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "below").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"lies outside --output.*keep links"):
        plan.plan([str(photos)], tmp_path / "out")


def test_a_result_that_is_a_link_is_replaced_and_what_it_names_is_kept(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "mine.png")
    write_image(tmp_path / "out" / "a.png", PHOTO)
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    assert not (tmp_path / "out" / "a.png").is_symlink()


@pytest.mark.parametrize("level", ["images", "variant", "set", "below", "scores"])
def test_a_benchmark_does_not_write_through_a_link(tmp_path, level):
    folder, item = tmp_path / "job", Item(SetSpec("five", "."), "below/a.png", None, None, (8, 8))
    task = Task(item, Variant("ode2", 4))
    target = image_path(folder, *task.key)
    number = {"below": 1, "set": 2, "variant": 3, "images": 4}
    link = folder / "scores" if level == "scores" else target.parents[number[level] - 1]
    link.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    job = Job.__new__(Job)
    job._folder = folder
    with pytest.raises(UserError, match=r"leads out of --output.*keep links"):
        job._check_targets([task])
    link.unlink()
    job._check_targets([task])
    assert target.is_relative_to(folder / IMAGES)


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", "", "a\0b", "..", "a\\b", "x" * 300 + "/.."])
def test_the_name_of_a_set_is_no_path(name):
    with pytest.raises(UserError, match="its name may hold letters"):
        SetSpec(name, ".")


def test_names_in_records_are_only_names(tmp_path):
    """A record named ../../x.png is read; nothing is ever written under its name."""
    records = pytest.importorskip("tpgdiff_jax.data.records")
    pytest.importorskip("array_record")
    example = {"name": "../../x.png", "lq": encode_png(PHOTO), "gt": encode_png(PHOTO)}
    records.write_records(tmp_path / "deep" / "a.array_record", [example], classes=("../../y",))
    before = sorted(tmp_path.rglob("*"))
    source = records.RecordPairs(tmp_path / "deep" / "a.array_record")
    assert source.name(0) == "../../x.png"
    assert source.classes == ("../../y",)
    np.testing.assert_array_equal(source[0]["gt"], PHOTO)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_test_set_is_not_written_into_a_folder_that_holds_anything(tmp_path, tiny_config, photos):
    from tpgdiff_jax.data.sources import PhotoFolder

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "noise").symlink_to(tmp_path)
    with pytest.raises(UserError, match="holds files already"):
        paired_set.prepare(PhotoFolder(photos), tiny_config, tmp_path / "set")


def test_links_back_to_their_own_folder_end(tmp_path):
    write_image(tmp_path / "photos" / "a.png", PHOTO)
    for number in range(3):
        (tmp_path / "photos" / f"again_{number}").symlink_to(tmp_path / "photos")
    tasks = plan.plan([str(tmp_path / "photos")], tmp_path / "out")
    assert [task.target.name for task in tasks] == ["a.png"]


@pytest.mark.parametrize("name", ["a.png", "b/a.png", "../a.png", "b/../../a.png", "link/a.png"])
def test_whether_a_path_stays_inside(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    inside = stays_inside(tmp_path / "out" / name, tmp_path / "out")
    assert inside is (name in ("a.png", "b/a.png"))
