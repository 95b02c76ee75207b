"""Jobs over folders: complete, resumable, and every bad file listed."""

import json

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.inference import job

OPTIONS = {"steps": 2, "sampler": "posterior", "seed": 3, "tile": None}


@pytest.fixture
def folder(photo_folder):
    (photo_folder / "sub").mkdir()
    (photo_folder / "2.png").rename(photo_folder / "sub" / "2.png")
    return photo_folder


def run(restorer, folder, output, suffix=".png"):
    tasks = job.plan([str(folder)], output, suffix)
    return job.run(restorer, tasks, output, options=OPTIONS, weights="abc", batch_size=2)


def test_names_and_folders_are_kept_and_every_image_is_logged(restorer, folder, tmp_path):
    output = tmp_path / "out"
    summary = run(restorer, folder, output)
    assert (summary.done, summary.present, summary.failed) == (3, 0, {})
    names = sorted(p.relative_to(output).as_posix() for p in output.rglob("*.png"))
    assert names == ["0.png", "1.png", "sub/2.png"]
    for name in names:
        expected = restorer(folder / name, steps=2, seed=3)
        found = np.asarray(Image.open(output / name))
        np.testing.assert_allclose(found.astype(int), expected, atol=1)
    rows = [json.loads(line) for line in (output / job.LOG_NAME).read_text().splitlines()]
    assert len(rows) == 3
    assert rows[0].items() >= {**OPTIONS, "weights": "abc", "height": 48, "width": 56}.items()
    assert rows[0]["degradation"][0] in ("noise", "haze")


def test_what_is_done_is_not_done_again(restorer, folder, tmp_path):
    output = tmp_path / "out"
    run(restorer, folder, output)
    (output / "1.png").unlink()
    before = (output / "0.png").stat().st_mtime_ns
    summary = run(restorer, folder, output)
    assert (summary.done, summary.present) == (1, 2)
    assert (output / "0.png").stat().st_mtime_ns == before


def test_bad_files_are_listed_and_stop_nothing(restorer, folder, tmp_path):
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "text.jpg").write_text("no image")
    output = tmp_path / "out"
    summary = run(restorer, folder, output)
    assert summary.done == 2
    assert {name.split("/")[-1] for name in summary.failed} == {"0.png", "text.jpg"}
    assert not (output / "0.png").exists()
    assert not [path for path in output.rglob("*") if "partial" in path.name]


def test_formats_that_hold_less_get_less(restorer, tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8)
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(rgba).save(source / "alpha.png")
    Image.fromarray(rgba[..., 0].astype(np.uint16) * 257).save(source / "deep.png")
    for suffix in (".jpg", ".png"):
        assert run(restorer, source, tmp_path / suffix, suffix).done == 2
    assert Image.open(tmp_path / ".jpg" / "alpha.jpg").mode == "RGB"
    assert Image.open(tmp_path / ".jpg" / "deep.jpg").mode == "L"
    assert Image.open(tmp_path / ".png" / "alpha.png").mode == "RGBA"
    assert Image.open(tmp_path / ".png" / "deep.png").mode == "I;16"


def test_inputs_may_be_files_folders_and_patterns(folder, tmp_path):
    assert len(job.plan([str(folder / "0.png")], tmp_path)) == 1
    assert len(job.plan([str(folder / "*.png"), str(folder / "sub")], tmp_path)) == 3
    assert len(job.plan([str(folder), str(folder / "0.png")], tmp_path)) == 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing.png", "is no file, no folder"),
        ("*.tiff", "matches nothing"),
        ("empty", "holds no"),
    ],
)
def test_inputs_that_mean_nothing_are_refused(folder, tmp_path, name, words):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=words):
        job.plan([str(folder / name)], tmp_path)


def test_two_files_with_one_result_are_refused(folder, tmp_path):
    (folder / "0.jpg").write_bytes((folder / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"0\.jpg and .*0\.png would both become"):
        job.plan([str(folder)], tmp_path)
    with pytest.raises(ValueError, match=r"--format='.gif'"):
        job.plan([str(folder)], tmp_path, ".gif")
