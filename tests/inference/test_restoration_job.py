"""Jobs over folders: complete, resumable, and every bad file listed."""

import dataclasses
import errno
import functools
import json
import logging
import os
import pathlib
import resource
import struct
import time
import zlib

import jax
import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.config import base_config
from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.data.pictures import door, memory
from tpgdiff_jax.inference import host_memory, job, plan, present, restore
from tpgdiff_jax.inference.devices import Devices
from tpgdiff_jax.inference.input_images import NOT_FINITE, NotFiniteError, Restored
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.inference.summary import describe
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable

SAMPLING = Sampling(steps=2, sampler="posterior", seed=3, passes=1, guidance={})


@pytest.fixture
def folder(photo_folder):
    (photo_folder / "sub").mkdir()
    (photo_folder / "2.png").rename(photo_folder / "sub" / "2.png")
    return photo_folder


def run(restorer, folder, output, suffix=".png", sampling=SAMPLING, **more):
    tasks = plan.plan([str(folder)], output, suffix)
    plan.check_output(output)
    return job.run(restorer, tasks, output, sampling=sampling, batch_size=2, **more)


class Mirror(restore.Restorer):
    """A `Restorer` where the network does not matter: negates every picture."""

    on_call = staticmethod(lambda: None)

    def __init__(self, dtype="float32"):
        self.fingerprint, self.config = "abc", base_config()
        self.config.model.dtype = dtype
        self._devices = Devices(None, self.config.model)

    def groups(self, shapes, batch_size, sampling):
        return [[index] for index in range(len(shapes))]

    def start(self, pictures, sampling, watch=None):
        self.on_call()
        return lambda: [self.restored(picture, sampling.samples) for picture in pictures]

    def restored(self, picture, samples):
        deviation = np.full(picture.rgb.shape[:2], 0.05) if samples > 1 else None
        return Restored(picture.rebuild(1 - picture.rgb), deviation, {"haze": 0.9})


def not_restored(output, name="not_restored.jsonl"):
    lines = (output / name).read_text().splitlines()
    return {row["input"]: row["reason"] for row in map(json.loads, lines)}


def wait_until(is_so):
    for _ in range(1000):
        if is_so():
            return
        time.sleep(0.01)
    raise TimeoutError


def leftovers(output):
    return [path for path in output.rglob("*") if "partial" in path.name]


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
    wanted = {**SAMPLING.as_logged(), "weights": restorer.fingerprint, "height": 48, "width": 56}
    assert {key: rows[0][key] for key in wanted} == wanted
    assert rows[0]["seconds"] > 0
    assert rows[0]["degradation"][0] in ("noise", "haze")


def test_what_is_done_is_not_done_again(folder, tmp_path):
    output = tmp_path / "out"
    run(Mirror(), folder, output)
    (output / "1.png").unlink()
    before = (output / "0.png").stat().st_mtime_ns
    summary = run(Mirror(), folder, output)
    assert (summary.done, summary.present, summary.other_settings) == (1, 2, 0)
    assert (output / "0.png").stat().st_mtime_ns == before
    summary = run(Mirror(), folder, output, sampling=dataclasses.replace(SAMPLING, steps=9))
    assert (summary.done, summary.present, summary.other_settings) == (0, 3, 3)
    assert "3 of those there were made with other settings" in describe(summary, output)
    assert run(Mirror("bfloat16"), folder, output).other_settings == 3


def test_results_are_known_however_their_folder_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = pathlib.Path("out")
    run(Mirror(), folder, output)
    other = dataclasses.replace(SAMPLING, steps=9)
    for name in (output, tmp_path / "out", pathlib.Path("../") / tmp_path.name / "out"):
        assert run(Mirror(), folder, name, sampling=other).other_settings == 3
    # Lines of older versions name a result as it was typed alone.
    without(output / job.LOG_NAME, "name", "dtype")
    assert run(Mirror(), folder, output).other_settings == 0
    assert run(Mirror(), folder, output, sampling=other).other_settings == 3


def test_lines_that_tell_neither_views_nor_passes_are_of_one_each(folder, tmp_path):
    output = tmp_path / "out"
    run(Mirror(), folder, output)
    without(output / job.LOG_NAME, "ensemble", "passes", "passes_taken")
    assert run(Mirror(), folder, output).other_settings == 0
    for change in ({"ensemble": 4}, {"passes": 2}):
        other = dataclasses.replace(SAMPLING, **change)
        assert run(Mirror(), folder, output, sampling=other).other_settings == 3


def test_a_result_made_from_another_file_is_listed(folder, tmp_path):
    output, other = tmp_path / "out", tmp_path / "other"
    run(Mirror(), folder, output)
    write_image(other / "0.png", np.full((48, 56, 3), 7, np.uint8))
    before = (output / "0.png").read_bytes()
    summary = run(Mirror(), other, output, sampling=dataclasses.replace(SAMPLING, steps=9))
    assert (summary.done, summary.present, summary.other_settings) == (0, 0, 0)
    assert summary.others == {str(other / "0.png"): f"0.png was made from {folder / '0.png'}"}
    assert not summary.is_complete
    said = describe(summary, output)
    assert "1 were not restored: their results there were made from other files" in said
    assert f"not restored: {other / '0.png'}: 0.png was made from {folder / '0.png'}" in said
    assert (output / "0.png").read_bytes() == before


def without(log, *keys):
    """Make a log one of an older version, whose lines lack some keys."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if key not in keys} for row in rows]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("old_log", [False, True])
def test_a_file_that_has_changed_is_restored_anew(folder, tmp_path, old_log):
    output, later = tmp_path / "out", (time.time() + 60,) * 2
    run(Mirror(), folder, output)
    if old_log:
        without(output / job.LOG_NAME, "stamp")
    for name in ("0.png", "1.png"):
        os.utime(folder / name, later)  # copied anew, or touched
    summary = run(Mirror(), folder, output)
    assert (summary.done, summary.present, summary.is_complete) == (0, 3, True)
    whole = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # of the same length
    os.utime(folder / "1.png", later)
    write_image(folder / "sub" / "2.png", np.full((9, 9, 3), 7, np.uint8))
    summary = run(Mirror(), folder, output, side_by_side=True)
    assert (summary.done, summary.changed, summary.present) == (2, 2, 1)
    assert "2 of the restored had changed" in describe(summary, output)
    assert (np.asarray(Image.open(output / "sub" / "2.png")) == 248).all()
    assert Image.open(output / "sub" / "2.side_by_side.png").size == (18, 9)
    summary = run(Mirror(), folder, output)
    assert (summary.done, summary.present) == (0, 3)


def test_a_changed_file_that_cannot_be_read_keeps_its_result(folder, tmp_path):
    output = tmp_path / "out"
    run(Mirror(), folder, output)
    before = (output / "0.png").read_bytes()
    (folder / "0.png").write_bytes(b"half a copy")
    for _ in range(2):
        summary = run(Mirror(), folder, output)
        assert (summary.done, summary.present) == (0, 2)
        assert list(summary.failed) == [str(folder / "0.png")]
    assert (output / "0.png").read_bytes() == before


def test_unchanged_files_are_looked_at_but_not_read(folder, tmp_path, monkeypatch):
    output = tmp_path / "out"
    for path in folder.rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    run(Mirror(), folder, output)
    monkeypatch.setattr(present, "content_mark", None)
    assert run(Mirror(), folder, output).present == 3
    without(output / job.LOG_NAME, "stamp")
    assert run(Mirror(), folder, output).present == 3


def test_a_file_is_opened_once_to_be_restored(folder, tmp_path, monkeypatch):
    opened, real = [], door._opened

    def count(source, whole):
        opened.extend([source] if whole else [])
        return real(source, whole)

    monkeypatch.setattr(door, "_opened", count)
    monkeypatch.setattr(door, "content_mark", None)
    assert run(Mirror(), folder, tmp_path / "out").done == 3
    assert len(opened) == 3


def test_a_name_that_changes_hands_is_noticed(folder, tmp_path):
    output = tmp_path / "out"
    write_image(folder / "a.jpg", np.full((9, 9, 3), 7, np.uint8))
    assert run(Mirror(), folder, output).done == 4
    write_image(folder / "a.png", np.full((9, 9, 3), 99, np.uint8))  # whose result is a.png
    summary = run(Mirror(), folder, output)
    assert (summary.done, summary.present) == (1, 3)
    assert list(summary.others) == [str(folder / "a.png")]
    assert (output / "a.jpg.png").exists()


def test_a_folder_that_was_moved_is_the_same(folder, tmp_path, monkeypatch):
    output = tmp_path / "out"
    run(Mirror(), folder, output)
    moved = folder.rename(tmp_path / "moved")
    summary = run(Mirror(), moved, output)
    assert (summary.present, summary.others, summary.is_complete) == (3, {}, True)
    monkeypatch.chdir(tmp_path)
    assert run(Mirror(), pathlib.Path("moved"), output).present == 3
    # Lines of older versions do not tell.
    without(output / job.LOG_NAME, "content", "stamp")
    write_image(moved / "0.png", np.zeros((9, 9, 3), np.uint8))
    assert run(Mirror(), moved, output).present == 3


def test_bad_files_are_listed_and_stop_nothing(folder, tmp_path):
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole[:300])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "bomb.png").write_bytes(
        whole[:16] + struct.pack(">II", 3_000_000, 3_000_000) + whole[24:29] + bomb_checksum(whole)
    )
    Image.fromarray(np.full((3, 3), 7.0, np.float32)).save(folder / "float.tif")
    write_image(folder / "deep.png", np.full((9, 9, 3), 5000, np.uint16))
    (folder / "deep.png").write_bytes((folder / "deep.png").read_bytes()[:-30])
    output = tmp_path / "out"
    summary = run(Mirror(), folder, output)
    assert summary.done == 2
    reasons = {name.split("/")[-1]: reason for name, reason in summary.failed.items()}
    assert reasons.keys() == {
        "0.png",
        "text.jpg",
        "empty.png",
        "bomb.png",
        *("float.tif", "deep.png"),
    }
    assert reasons["empty.png"] == "empty file (0 bytes)"
    assert reasons["bomb.png"].startswith("3000000x3000000 pixels need ")
    assert reasons["float.tif"].startswith("32-bit floats from 7 to 7, expected 0 to 1")
    assert not (output / "0.png").exists()
    assert not leftovers(output)


def test_machines_read_what_is_not_restored(folder, tmp_path):
    """Each part of a job has a list, which is empty once its files have been mended."""
    output, whole = tmp_path / "out", (folder / "0.png").read_bytes()
    bad = folder / os.fsdecode(b"caf\xe9\n.png")
    bad.write_bytes(b"no image")
    assert run(Mirror(), folder, output, log_name="restored_3.jsonl").done == 3
    assert not_restored(output, "not_restored_3.jsonl") == {
        str(bad): "not an image, whatever its name says"
    }
    bad.write_bytes(whole)
    assert run(Mirror(), folder, output, log_name="restored_3.jsonl").is_complete
    assert not_restored(output, "not_restored_3.jsonl") == {}


def bomb_checksum(whole):
    header = whole[12:16] + struct.pack(">II", 3_000_000, 3_000_000) + whole[24:29]
    return struct.pack(">I", zlib.crc32(header)) + whole[33:]


def test_sizes_and_names_of_every_kind(restorer, tmp_path):
    source = tmp_path / "in out ä 图"
    source.mkdir()
    rng = np.random.default_rng(0)
    sizes = {"one pixel.png": (1, 1), "ünï.png": (3, 5), "图 [1].png": (9, 2)}
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(source / name)
    output = tmp_path / "out $HOME 'x'"
    assert run(restorer, source, output).done == 3
    for name, size in sizes.items():
        assert Image.open(output / name).size == size[::-1]


def test_further_pictures_stand_beside_the_result(folder, tmp_path):
    output = tmp_path / "out"
    sampling = dataclasses.replace(SAMPLING, samples=2)
    assert run(Mirror(), folder, output, ".jpg", sampling, side_by_side=True).done == 3
    gt = np.asarray(Image.open(folder / "sub" / "2.png"))
    pair = np.asarray(Image.open(output / "sub" / "2.side_by_side.png"))
    np.testing.assert_allclose(pair, np.concatenate([gt, 255 - gt], axis=1), atol=1)
    deviation = np.asarray(Image.open(output / "sub" / "2.deviation.png"))
    assert deviation.shape == gt.shape[:2]
    assert (deviation == 128).all()  # 0.05 of 0.1
    row = json.loads((output / job.LOG_NAME).read_text().splitlines()[0])
    assert row["mean_deviation"] == pytest.approx(0.05)
    # They are no inputs of the next job, even where the results lie among the inputs.
    inside = folder / "results"
    for _ in range(2):
        summary = run(Mirror(), folder, inside, side_by_side=True)
    assert (summary.done, summary.present, summary.side_by_side) == (0, 3, 0)


def test_results_there_get_the_side_by_side_picture_that_they_lack(folder, tmp_path):
    output = tmp_path / "out"
    run(Mirror(), folder, output)
    write_image(output / "1.png", np.zeros((5, 7, 3), np.uint8))
    summary = run(Mirror(), folder, output, side_by_side=True)
    assert (summary.done, summary.present, summary.side_by_side) == (0, 3, 2)
    assert "2 of those there got their side-by-side picture" in describe(summary, output)
    reason = summary.failed[str(folder / "1.png")]
    assert reason.startswith("no side-by-side picture: 1.png has 7x5 pixels, the picture 56x48;")
    gt = np.asarray(Image.open(folder / "sub" / "2.png"))
    pair = np.asarray(Image.open(output / "sub" / "2.side_by_side.png"))
    np.testing.assert_array_equal(pair, np.concatenate([gt, 255 - gt], axis=1))


@pytest.mark.parametrize("full", ["picture", "log"])
def test_a_full_disk_stops_the_job_and_leaves_nothing_half_written(
    folder, tmp_path, monkeypatch, full
):
    output = tmp_path / "out"

    def refusing(real, source, target):
        if target.name == "1.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    output.mkdir()
    if full == "picture":
        for name in ("link", "replace"):
            monkeypatch.setattr(os, name, functools.partial(refusing, getattr(os, name)))
    else:
        (output / job.LOG_NAME).symlink_to("/dev/full")  # takes nothing
    summary = run(Mirror(), folder, output)
    # What was being written beside it may be done.
    made = list(output.rglob("*.png"))
    assert 1 <= summary.done == len(made) <= (2 if full == "picture" else 3)
    assert summary.left == 3 - summary.done
    assert "No space left on device" in summary.stopped
    assert f"{summary.left} files are left, run it again" in describe(summary, output)
    assert not leftovers(output)
    monkeypatch.undo()
    if full == "log":
        (output / job.LOG_NAME).unlink()
    assert run(Mirror(), folder, output).done == summary.left


def test_what_is_written_as_ctrl_c_comes_is_logged(folder, tmp_path, monkeypatch):
    """Else nothing would tell how these results were made, and whether their files have changed."""
    restorer, calls, real, output = Mirror(), [], job.write_image, tmp_path / "out"

    def press():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    def slow(*args, **options):
        time.sleep(0.2)
        real(*args, **options)

    restorer.on_call = press
    monkeypatch.setattr(job, "write_image", slow)
    with pytest.raises(KeyboardInterrupt):
        run(restorer, folder, output)
    written = {path.relative_to(output).as_posix() for path in output.rglob("*.png")}
    lines = (output / job.LOG_NAME).read_text().splitlines()
    assert {json.loads(line)["name"] for line in lines} == written != set()


def test_a_log_that_fills_the_disk_is_mended_by_the_next_job(folder, tmp_path):
    output = tmp_path / "out"
    run(Mirror(), folder, output)
    log = output / job.LOG_NAME
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines) * 40)
    (output / "1.png").unlink()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 50, hard))
    try:
        summary = run(Mirror(), folder, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "File too large" in summary.stopped
    assert len(log.read_bytes().splitlines()[-1]) == 50  # cut off
    (output / "0.png").unlink()
    assert run(Mirror(), folder, output).done == 1
    cut_off, last = log.read_text().splitlines()[-2:]
    assert len(cut_off) == 50
    assert json.loads(last)["output"].endswith("0.png")
    assert (
        run(
            Mirror(), folder, output, sampling=dataclasses.replace(SAMPLING, steps=9)
        ).other_settings
        == 3
    )


@pytest.mark.parametrize("when", ["read_size", "as_input"])
def test_an_input_that_the_disk_does_not_give_is_listed(folder, tmp_path, monkeypatch, when):
    real = getattr(job, when)

    def damaged_disk(path, **options):
        if getattr(path, "name", "") == "1.png":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, **options)

    monkeypatch.setattr(job, when, damaged_disk)
    summary = run(Mirror(), folder, tmp_path / "out")
    assert (summary.done, summary.stopped) == (2, "")
    assert summary.failed == {str(folder / "1.png"): "cannot be read: Input/output error"}


def test_a_name_too_long_for_the_result_is_listed(folder, tmp_path):
    (folder / "0.png").rename(folder / f"{'x' * 251}.png")
    summary = run(Mirror(), folder, tmp_path / "out", ".tiff")
    assert summary.done == 2
    assert "File name too long" in next(iter(summary.failed.values()))


def test_a_result_that_is_no_number_is_listed(folder, tmp_path):
    restorer, calls = Mirror(), []
    real = restorer.restored

    def second_fails(*args):
        calls.append(1)
        return NotFiniteError(NOT_FINITE) if len(calls) == 2 else real(*args)

    restorer.restored = second_fails
    summary = run(restorer, folder, tmp_path / "out")
    assert summary.done == 2
    assert "not finite" in next(iter(summary.failed.values()))
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
            "needs more memory than the device has; try a smaller --tile",
        ),
        (MemoryError(), "needs more memory than there is; try a smaller --tile"),
    ],
)
def test_a_picture_too_large_for_the_memory_fails_alone(folder, tmp_path, error, reason):
    class Small(Mirror):
        def start(self, pictures, sampling, watch=None):
            if pictures[0].name == "1.png":  # however often it is tried
                raise error
            return super().start(pictures, sampling, watch)

    summary = run(Small(), folder, tmp_path / "out")
    assert (summary.done, list(summary.failed.values())) == (2, [reason])
    assert next(iter(summary.failed)).endswith("1.png")


def test_a_batch_too_large_for_the_memory_is_halved(restorer, folder, tmp_path, monkeypatch):
    """Files that fit one at a time are restored, and to the same pictures."""
    Image.fromarray(np.zeros((48, 56, 3), np.uint8)).save(folder / "3.png")
    alone = {path.stem: restorer(path, steps=2, seed=3) for path in folder.rglob("*.png")}
    real, seen = restore.run_stepwise, []

    def one_fits(variables, lq, *args, **options):
        seen.append(len(lq))
        if len(lq) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(variables, lq, *args, **options)

    monkeypatch.setattr(restore, "run_stepwise", one_fits)
    summary = run(restorer, folder, tmp_path / "out")
    assert (summary.done, summary.failed) == (4, {})
    assert seen == [2, 2, 1, 1, 1, 1]
    for path in (tmp_path / "out").rglob("*.png"):
        np.testing.assert_allclose(
            np.asarray(Image.open(path)).astype(int), alone[path.stem], atol=1
        )


def test_large_pictures_are_announced_since_they_take_long(folder, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="absl"):
        run(Mirror(), folder, tmp_path / "whole")
        assert "windows" not in caplog.text
        write_image(folder / "large.png", np.zeros((64, 200, 3), np.uint8))
        windows = dataclasses.replace(SAMPLING, tile=64)
        run(Mirror(), folder, tmp_path / "out", sampling=windows)
    assert (
        "Large pictures are restored in windows: 1 of 4 pictures, the largest in 5." in caplog.text
    )


def test_a_picture_that_needs_more_than_the_machine_has_fails_alone(
    restorer, folder, tmp_path, monkeypatch
):
    """Linux would end the process, and each that continues the job."""
    write_image(folder / "large.png", np.zeros((480, 560, 3), np.uint8))
    monkeypatch.setattr(memory, "total", lambda: 50 * 2**20)  # enough to read it
    summary = run(Mirror(), folder, tmp_path / "out")
    assert summary.done == 3
    assert summary.failed == {
        str(folder / "large.png"): "560x480 pixels need 0.0611 GiB of memory, more than the 0.0488 "
        "GiB there are; cut it into parts"
    }
    found = list(restorer.iterate([np.zeros((480, 560))], samples=2))
    assert isinstance(found[0].error, UserError)
    host_memory.check((480, 400), 1, 0, 0, is_here=True)
    with pytest.raises(UserError, match=r"400x480 pixels need.*draw fewer samples, or"):
        host_memory.check((480, 400), 9, 0, 0, is_here=True)
    restorer._devices.check_memory((450, 450), Sampling(tile=64))
    with pytest.raises(UserError, match="450x450 pixels need"):
        restorer._devices.check_memory((450, 450), Sampling(tile=64, ensemble=2))


def test_a_picture_that_is_seen_whole_needs_more_memory_than_in_windows(restorer, monkeypatch):
    monkeypatch.setattr(memory, "total", lambda: 500 * 2**20)
    image = np.zeros((1200, 1200))
    devices, size = restorer._devices, image.shape
    for sampling in (Sampling(), Sampling(tile=768), Sampling(tile=64, windows=9)):
        devices.check_memory(size, sampling)
    words = r"1200x1200 pixels need 0\.\d+ GiB of memory.*; let it be seen in smaller windows"
    for sampling in (Sampling(tile=0), Sampling(tile=1152), Sampling(tile=512, windows=9)):
        with pytest.raises(UserError, match=words):
            devices.check_memory(size, sampling)
    (found,) = restorer.iterate([image], tile=0)
    assert "smaller windows" in str(found.error)
    host_memory.check(size, 1, 10**12, 64, is_here=False)  # the device says so itself


@pytest.mark.parametrize(("part", "most"), [(100, 4), (1, 2)])
def test_results_that_wait_for_the_disk_do_not_fill_the_memory(
    folder, tmp_path, monkeypatch, part, most
):
    """A device may be much faster than the compression of large pictures."""
    for number in range(3, 9):
        (folder / f"{number}.png").write_bytes((folder / "0.png").read_bytes())
    written, seen, real = [], [], job.write_image
    restorer = Mirror()

    def slow(*args, **options):
        time.sleep(0.1)
        real(*args, **options)
        written.append(1)

    restorer.on_call = lambda: seen.append(len(seen) - len(written))  # of those begun
    monkeypatch.setattr(job, "write_image", slow)
    monkeypatch.setattr(host_memory, "check", lambda *_, **__: None)
    monkeypatch.setattr(memory, "total", lambda: part * 4 * memory.BYTES_PER_PIXEL * 48 * 56)
    assert run(restorer, folder, tmp_path / "out").done == 9
    assert max(seen) <= most + 2 if part == 1 else max(seen) > most  # two are in the device


@pytest.mark.parametrize("when", ["as_input", "for_format"])
def test_a_file_too_large_for_the_memory_fails_alone(folder, tmp_path, monkeypatch, when):
    real, calls = getattr(job, when), []

    def at_the_second(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return real(*args, **options)

    monkeypatch.setattr(job, when, at_the_second)
    summary = run(Mirror(), folder, tmp_path / "out")
    assert summary.done == 2
    assert "more memory than there is" in next(iter(summary.failed.values()))


def test_two_jobs_on_one_folder(folder, tmp_path):
    """A second job that starts while the first works does what the first has not come to."""
    output, second = tmp_path / "out", []
    first = Mirror()

    def start_second():
        first.on_call = lambda: None
        second.append(run(Mirror(), folder, output))

    first.on_call = start_second
    summary = run(first, folder, output)
    assert second[0].done == 3
    assert (summary.done, summary.present) == (0, 3)  # also the one it had begun
    assert len(list(output.rglob("*.png"))) == 3
    assert not leftovers(output)


def test_a_folder_of_results_that_goes_away_meanwhile_is_told(folder, tmp_path):
    (folder / "bad.png").write_bytes(b"no picture")
    output, restorer, calls = tmp_path / "out", Mirror(), []

    def move_once_there_is_one():
        calls.append(1)
        if len(calls) == 3:  # the second has begun before the first is done
            wait_until(lambda: list(output.glob("[0-9].png")) and not leftovers(output))
            output.rename(tmp_path / "moved")

    restorer.on_call = move_once_there_is_one
    summary = run(restorer, folder, output)
    assert "out was removed or moved meanwhile" in summary.stopped
    assert summary.left == 3 - len(list(output.rglob("*.png"))) >= 1
    assert not summary.is_complete
    again = run(Mirror(), folder, output)
    assert (again.done, again.left, list(again.failed)) == (
        summary.left,
        0,
        [str(folder / "bad.png")],
    )


@pytest.mark.parametrize("call", [1, 2])
def test_a_result_that_another_job_makes_meanwhile_of_another_file_is_listed(
    folder, tmp_path, call
):
    """Whether the other job is faster before the file's turn, or while it is worked on."""
    other, output, calls = tmp_path / "other", tmp_path / "out", []
    other.mkdir()
    write_image(other / "1.png", np.full((8, 8, 3), 9, np.uint8))
    first = Mirror()

    def start_other():
        calls.append(1)
        if len(calls) == call:
            assert run(Mirror(), other, output, side_by_side=True).done == 1

    first.on_call = start_other
    summary = run(first, folder, output, side_by_side=True)
    why = f"1.png was made from {other / '1.png'}"
    assert summary.others == {str(folder / "1.png"): why}
    assert not_restored(output) == {str(folder / "1.png"): why}
    assert (summary.done, summary.present, summary.is_complete) == (2, 0, False)
    assert np.asarray(Image.open(output / "1.png")).max() == 255 - 9


def test_a_result_of_another_job_that_comes_at_the_same_moment_stays(folder, tmp_path, monkeypatch):
    other, output, link = tmp_path / "other", tmp_path / "out", os.link
    other.mkdir()
    write_image(other / "1.png", np.full((8, 8, 3), 9, np.uint8))

    def link_late(source, target):
        if target == output / "1.png":
            monkeypatch.setattr(os, "link", link)
            assert run(Mirror(), other, output).done == 1
        link(source, target)

    monkeypatch.setattr(os, "link", link_late)
    summary = run(Mirror(), folder, output)
    assert list(summary.others) == [str(folder / "1.png")]
    assert (summary.done, summary.present) == (2, 0)
    assert np.asarray(Image.open(output / "1.png")).max() == 255 - 9
    assert not leftovers(output)


def test_what_another_job_makes_meanwhile_gets_the_picture_that_was_asked_for(folder, tmp_path):
    output, first = tmp_path / "out", Mirror()

    def start_other():
        first.on_call = lambda: None
        run(Mirror(), folder, output, sampling=dataclasses.replace(SAMPLING, seed=4))

    first.on_call = start_other
    summary = run(first, folder, output, side_by_side=True)
    assert (summary.present, summary.other_settings) == (3, 3)
    assert len(list(output.rglob("*.side_by_side.png"))) == 3


def test_shares_are_even_and_leave_nothing_out(folder, tmp_path):
    tasks = plan.plan([str(folder)], tmp_path / "out")
    shares = [plan.share(tasks, index, 2) for index in range(2)]
    assert sorted(map(len, shares)) == [1, 2]
    assert sorted(t.target for part in shares for t in part) == [t.target for t in tasks]


def test_inputs_and_results_in_one_folder_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="are one folder"):
        plan.plan([str(folder)], folder / "sub" / "..")
    with pytest.raises(ValueError, match=r"0\.png would be its own result"):
        plan.plan([str(folder / "0.png")], folder)
    assert len(plan.plan([str(folder / "0.png")], folder, ".jpg")) == 1


def test_results_outside_the_output_folder_are_refused(folder, tmp_path):
    output, secret = tmp_path / "out", tmp_path / "secret"
    secret.mkdir()
    (folder / "1.png").rename(secret / "1.png")
    words = r"--input=.*secret.*: the result of .*1\.png would be .*lies outside --output=.*out;"
    with pytest.raises(ValueError, match=words):
        plan.plan([str(folder / "*" / ".." / ".." / "secret" / "*.png")], output)
    output.mkdir()
    (output / "sub").symlink_to(secret)
    with pytest.raises(ValueError, match=r"would be .*sub/2\.png.*lies outside.*keep links"):
        plan.plan([str(folder)], output)
    # Within the folder, and where the folder itself is a link, all is well.
    (output / "sub").unlink()
    (tmp_path / "alias").symlink_to(output)
    for text in (str(folder), str(folder / "*" / ".." / "sub" / "*.png")):
        assert plan.plan([text], tmp_path / "alias")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "out", pathlib.Path("/proc/nothing")):
        with pytest.raises(ValueError, match="cannot be written"):
            plan.check_output(output)


def test_what_a_folder_lacks_is_listed_among_the_failures(folder, tmp_path):
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "0.jpg").write_bytes((folder / "0.png").read_bytes())
    output = tmp_path / "out"
    summary = run(Mirror(), folder, output)
    assert summary.failed == {
        str(folder / "gone.jpg"): "a link to nowhere.jpg, which does not exist"
    }
    names = sorted(p.relative_to(output).as_posix() for p in output.rglob("*.png"))
    assert names == ["0.jpg.png", "0.png", "1.png", "sub/2.png"]


def test_formats_that_hold_less_get_less(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8)
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(rgba).save(source / "alpha.png")
    Image.fromarray(rgba[..., 0].astype(np.uint16) * 257).save(source / "deep.png")
    Image.fromarray(rgba[:3, :, :3].repeat(3000, 1)).save(source / "wide.png")
    for suffix, done in ((".jpg", 2), (".png", 3), (".webp", 2)):
        summary = run(Mirror(), source, tmp_path / suffix, suffix)
        assert summary.done == done
        assert len(summary.failed) == 3 - done  # wider than the format allows
    assert Image.open(tmp_path / ".jpg" / "alpha.jpg").mode == "RGB"
    assert Image.open(tmp_path / ".jpg" / "deep.jpg").mode == "L"
    assert Image.open(tmp_path / ".png" / "alpha.png").mode == "RGBA"
    assert Image.open(tmp_path / ".png" / "deep.png").mode == "I;16"


def test_inputs_may_be_files_folders_and_patterns(folder, tmp_path):
    assert len(plan.plan([str(folder / "0.png")], tmp_path)) == 1
    assert len(plan.plan([str(folder / "*.png"), str(folder / "sub")], tmp_path)) == 3
    assert len(plan.plan([str(folder), str(folder / "0.png")], tmp_path)) == 3
    found = plan.plan([str(folder / "**" / "*.png")], tmp_path)
    assert [task.target.relative_to(tmp_path).as_posix() for task in found] == [
        *("0.png", "1.png", "sub/2.png"),
    ]


def test_results_among_the_files_of_a_pattern_are_not_restored_again(folder):
    """Nor are they where the pattern goes by way of a link."""
    link, output = folder.with_name("link"), folder / "restored"
    link.symlink_to(folder)
    for _ in range(2):
        for start in (folder, link):
            tasks = plan.plan([str(start / "**" / "*.png")], output)
            found = [task.target.relative_to(output).as_posix() for task in tasks]
            assert found == ["0.png", "1.png", "sub/2.png"]
        run(Mirror(), folder, output)
    with pytest.raises(ValueError, match="matches nothing besides results of --output"):
        plan.plan([str(folder / "rest*" / "*.png")], output)
    # Inputs may lie below the folder of the results.
    assert len(plan.plan([str(folder / "sub" / "*.png")], folder)) == 1


def test_linked_folders_are_restored_once_however_they_are_named(folder, tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (folder / "1.png").rename(store / "1.png")
    (folder / "linked").symlink_to(store)
    (folder / "loop..").symlink_to(folder)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "3.png").write_bytes((folder / "0.png").read_bytes())
    output = tmp_path / "out"
    for text in (str(folder), str(folder / "**" / "*.png")):
        found = [t.target.relative_to(output).as_posix() for t in plan.plan([text], output)]
        assert found == ["0.png", "linked/1.png", "sub/2.png"]


def test_names_that_are_no_text(folder, tmp_path, restorer, caplog):
    names = [os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"b\xe4d.png")]
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / names[0]).write_bytes((folder / "0.png").read_bytes())
    (source / names[1]).write_bytes(b"no image")
    summary = run(restorer, source, output)
    assert (summary.done, len(summary.failed)) == (1, 1)
    assert Image.open(output / names[0]).size == (56, 48)
    assert run(restorer, source, output).present == 1
    row = json.loads((output / job.LOG_NAME).read_text().splitlines()[0])
    assert row["output"] == str(output / names[0])
    said = printable(describe(summary, output), "utf-8")
    assert r"b\udce4d.png: not an image" in said
    assert caplog.text.encode().count(rb"b\udce4d.png") == 2


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
        plan.plan([str(folder / name)], tmp_path)


def test_formats_that_are_not_written_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"--format='.gif'"):
        plan.plan([str(folder)], tmp_path, ".gif")
