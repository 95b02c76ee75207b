"""Shares of an array job: any can run alone and again, and together they are one job."""

import functools
import json
import re
import shutil

import jax
import pytest

from tpgdiff_jax.benchmark.job import ROWS
from tpgdiff_jax.benchmark.run import run_benchmark
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.distributed.sharding import make_mesh
from tpgdiff_jax.evaluation import perceptual
from tpgdiff_jax.reporting.errors import UserError

# What tells of clocks and of the folder.
CIRCUMSTANCES = ("date", "seconds")


@pytest.fixture
def score(benchmarks, benchmark_config):
    """`score(folder, metrics=..., **share or merge)` -> the summary of somebody's outputs.

    No network runs.
    """
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1, "spatial": 1}, jax.devices()[:1])
    theirs = benchmarks / "theirs"
    for name in ("pairs", "noisy"):
        shutil.copytree(benchmarks / "pairs" / "LQ", theirs / name, dirs_exist_ok=True)

    def run(folder, metrics=("psnr", "ssim"), **how):
        benchmark_config.benchmark.metrics = metrics
        settings = read_settings(benchmark_config)
        return run_benchmark(settings, folder, mesh, predictions=theirs, title="t", **how)

    return run


def test_shares_find_the_digits_of_one_process(run_job, tmp_path, plain_rows, undisturbed):
    scored = [run_job(tmp_path, share=(index, 3), batch_size=1) for index in (2, 0, 1)]
    assert sum(scored) == len(undisturbed)
    assert max(scored) - min(scored) <= 1
    assert plain_rows(tmp_path) == undisturbed
    assert run_job(tmp_path, share=(1, 3), batch_size=1) == 0


def test_a_merged_report_is_that_of_one_process(score, tmp_path):
    alone = score(tmp_path / "alone")
    shared = tmp_path / "shared"
    for index in range(2):
        assert score(shared, share=(index, 2)) is None
        assert not (shared / "report.html").exists()
    merged = score(shared, merge=True)
    # JSON compares as text: NaN is no number.
    assert json.dumps(merged, sort_keys=True) == json.dumps(alone, sort_keys=True)
    written = (shared / "scores.csv").read_text(), (tmp_path / "alone" / "scores.csv").read_text()
    assert written[0] == written[1]
    assert (shared / "report.html").is_file()


def test_scores_of_a_package_that_was_missing_at_first_are_made(score, tmp_path, monkeypatch):
    score = functools.partial(score, metrics=("psnr", "lpips_vgg"))

    def missing(name):
        raise UserError("install it")

    monkeypatch.setattr(perceptual, "load", missing)
    for index in range(2):
        score(tmp_path, share=(index, 2))
    assert score(tmp_path, merge=True)["not_computed"] == {"lpips_vgg": "install it"}
    monkeypatch.setattr(perceptual, "load", lambda name: {})
    monkeypatch.setattr(perceptual, "lpips", lambda name, params, x, y, sizes: sizes[:, 0] * 0.01)
    (why,) = score(tmp_path, merge=True)["not_computed"].values()
    assert why.startswith("10 of 10 images were scored where its package was missing")
    for _ in range(2):
        summary = score(tmp_path)  # one process, whose file comes before the other share's
        assert summary["not_computed"] == {}
        assert "counts" not in summary["results"]["predictions"]["pairs"]
        assert summary["results"]["predictions"]["pairs"]["lpips_vgg"] > 0
    lines = list((tmp_path / ROWS).glob("process_*.jsonl"))
    assert sum(len(path.read_text().splitlines()) for path in lines) == 20


def test_a_share_runs_again_alone(score, tmp_path):
    for index in range(2):
        score(tmp_path, share=(index, 2))
    lines = tmp_path / ROWS / "process_1.jsonl"
    before = sorted(line.partition('"files"')[0] for line in lines.read_text().splitlines())
    lines.unlink()
    with pytest.raises(UserError, match=r"5 of 10 images have no score yet; the first is pred"):
        score(tmp_path, merge=True)
    score(tmp_path, share=(1, 2))
    again = sorted(line.partition('"files"')[0] for line in lines.read_text().splitlines())
    clocks = re.compile(r'"seconds": [\d.]+')
    assert [clocks.sub("", line) for line in again] == [clocks.sub("", line) for line in before]
    assert score(tmp_path, merge=True)["results"]
