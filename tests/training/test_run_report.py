"""What a run writes about itself: metrics, pictures, events."""

import errno
import json
import logging

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.training.run_report import RunReport


@pytest.fixture
def board(monkeypatch):
    """What goes to TensorBoard: [(kind, tag, step)]."""
    seen = []

    class Board:
        def __init__(self, *_, **__):
            pass

        def add_scalar(self, tag, value, step):
            seen.append(("scalar", tag, step))

        def add_image(self, tag, image, step):
            seen.append(("image", tag, step))

        def add_text(self, tag, text, step):
            seen.append(("text", tag, step))

        def close(self):
            pass

    monkeypatch.setattr("tpgdiff_jax.training.run_report.EventFile", Board)
    return seen


def test_metrics_keep_their_group(tmp_path, board):
    report = RunReport(tmp_path, start=0, total=10)
    report.write(2, {"loss": 0.5, "speed/step_seconds": 0.1, "loss/haze": float("nan")})
    report.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row == {"step": 2, "loss": 0.5, "speed/step_seconds": 0.1}
    assert board == [("scalar", "train/loss", 2), ("scalar", "speed/step_seconds", 2)]


def test_every_line_is_json_whatever_was_measured(tmp_path):
    """Equal images have an infinite PSNR; lines of older programs may hold `Infinity`."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "psnr": Infinity}\n{"step": 1, "lo\n[1]\n{"no_step": 1}\n')
    report = RunReport(tmp_path, start=1, total=10)
    report.write(2, {"validation/psnr": float("inf"), "x": float("-inf"), "y": float("nan")})
    report.close()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert rows[0] == {"step": 1, "psnr": "inf"}
    assert rows[1] == {"step": 2, "validation/psnr": "inf", "x": "-inf"}
    assert len(rows) == 2


def test_a_run_killed_before_its_first_checkpoint_repeats_no_line(tmp_path):
    """The validation before the first step is written at every start from step 0, once each."""
    for _ in range(2):
        report = RunReport(tmp_path, start=0, total=10)
        report.write(0, {"validation/psnr": 20.0})
        report.write(2, {"loss": 0.5})
        report.close()
    report = RunReport(tmp_path, start=2, total=10)
    report.write(4, {"loss": 0.25})
    report.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4]


def test_validation_has_a_line_of_its_own(tmp_path, caplog):
    report = RunReport(tmp_path, start=0, total=10)
    with caplog.at_level(logging.INFO, logger="absl"):
        report.write(4, {"validation/psnr": 25.125, "validation/ssim": 0.75})
        report.write(5, {"loss": 0.5})
    report.close()
    assert "step 4: validation/psnr 25.12, validation/ssim 0.75" in caplog.text
    assert "step 5 of 10, loss 0.5000" in caplog.text
    assert "nan" not in caplog.text


def test_picture_is_written_whole(tmp_path, board):
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    report = RunReport(tmp_path, start=0, total=10)
    report.picture("validation/haze", image, 4)
    report.picture("validation/haze", image[::-1], 4)
    report.close()
    (path,) = (tmp_path / "pictures").iterdir()
    assert path.name == "validation_haze_4.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image[::-1])
    assert board == [("image", "validation/haze", 4)] * 2


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8)])
def test_wrong_picture_is_named(tmp_path, image):
    report = RunReport(tmp_path, start=0, total=10)
    with pytest.raises(ValueError, match=r"'sky'.*uint8 \[H, W, 3\]"):
        report.picture("sky", image, 1)
    report.close()


def test_events_of_all_starts_stay(tmp_path, board, caplog):
    for start, text in ((0, "step 3: loss is NaN, skipped"), (5, "SIGTERM: saved")):
        report = RunReport(tmp_path, start=start, total=10)
        with caplog.at_level(logging.INFO, logger="absl"):
            report.event(text)
        report.close()
        assert text in caplog.text
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(row["step"], row["event"][:7]) for row in rows] == [(0, "step 3:"), (5, "SIGTERM")]
    assert ("text", "event", 5) in board


def test_real_tensorboard_files_hold_everything(tmp_path):
    report = RunReport(tmp_path, start=0, total=1)
    report.write(1, {"speed/images_per_second": 3.0})
    report.picture("sky", np.full((8, 8, 3), 9, np.uint8), 1)
    report.event("done")
    report.close()
    content = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    for tag in (b"speed/images_per_second", b"sky", b"event", b"done", b"\x89PNG"):
        assert tag in content


def test_a_full_disk_ends_a_run_instead_of_holding_it(tmp_path, monkeypatch):
    report = RunReport(tmp_path, start=0, total=99)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboardX.record_writer.RecordWriter.flush", full)
    monkeypatch.setattr("tpgdiff_jax.training.tensorboard._SECONDS", 0.0)
    with pytest.raises(RunStoppedError, match=r"No space left on device\. Check free space"):
        report.write(1, {"loss": 0.5})
    monkeypatch.undo()
    report.close()


def test_other_processes_write_nothing(tmp_path):
    report = RunReport(tmp_path, start=0, total=1, is_writer=False)
    report.advance()
    report.write(1, {"loss": 1.0})
    report.picture("sky", np.zeros((8, 8, 3), np.uint8), 1)
    report.event("done")
    report.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "events.jsonl"])
def test_a_report_that_cannot_be_written_is_a_sentence(tmp_path, name):
    """Where a file should be stands a folder, and the other way round."""
    path = tmp_path / name
    path.mkdir() if path.suffix else path.touch()
    with pytest.raises(RunStoppedError, match=f"--workdir={tmp_path} cannot be written"):
        RunReport(tmp_path, start=0, total=2).event("begun")


def test_reporting_loads_no_pytorch_and_leaves_it_to_others(start_python, tmp_path):
    code = """
import importlib.util, pathlib, sys
from tpgdiff_jax.training.run_report import RunReport
RunReport(pathlib.Path(sys.argv[1]), start=0, total=1).close()
print("torch" in sys.modules, importlib.util.find_spec("torch") is None)
"""
    output, errors = start_python(code, tmp_path).communicate(timeout=120)
    assert output.split() == ["False", "False"], errors


@pytest.mark.parametrize(("start", "purged"), [(0, 0), (5, 6)])
def test_the_report_of_the_step_that_a_run_continues_stays(tmp_path, monkeypatch, start, purged):
    """In TensorBoard as in the metrics; TensorBoard hides what is purged and all after it."""
    seen = {}

    class Board:
        def __init__(self, folder, purge_step):
            seen["purge_step"] = purge_step

        def close(self):
            pass

    monkeypatch.setattr("tpgdiff_jax.training.run_report.EventFile", Board)
    RunReport(tmp_path, start=start, total=10).close()
    assert seen["purge_step"] == purged
