"""Summaries: what one package or set lacks costs nothing else, and every mean says of how many."""

import json
import shutil

import jax
import pytest

from tpgdiff_jax.distributed.sharding import make_mesh
from tpgdiff_jax.evaluation import optional
from tpgdiff_jax.evaluation.benchmark import run_benchmark
from tpgdiff_jax.evaluation.settings import read_settings
from tpgdiff_jax.evaluation.summary import averages, means
from tpgdiff_jax.evaluation.tables import result_table

MESH = dict.fromkeys(("data", "fsdp", "tensor", "spatial"), 1)


@pytest.fixture
def score(benchmarks, benchmark_config, tmp_path):
    """`score(*metrics)` -> summary of a job over the sets `one` (a single image) and `pairs`."""
    root = tmp_path / "root"
    shutil.copytree(benchmarks / "pairs", root / "pairs")
    for side in ("LQ", "GT"):
        (root / "one" / side).mkdir(parents=True)
        shutil.copy(root / "pairs" / side / "0.png", root / "one" / side)
    for name in ("one", "pairs"):
        shutil.copytree(root / name / "LQ", tmp_path / "outs" / name)

    def run(*metrics):
        sets = tuple({"name": name, "folder": name} for name in ("one", "pairs"))
        keys = {"root": str(root), "sets": sets, "metrics": ("psnr", *metrics)}
        benchmark_config.benchmark.update(keys)
        mesh = make_mesh(MESH, jax.devices()[:1])
        settings = read_settings(benchmark_config)
        return run_benchmark(settings, tmp_path / "job", mesh, predictions=tmp_path / "outs")

    return run


def test_a_set_without_a_distance_costs_no_other_set_its_own(score, monkeypatch):
    def fid(restored, true):
        if len(restored) < 2:
            raise optional.NotComputedError("too few")
        return 1.5

    monkeypatch.setattr(optional, "load", lambda *_: fid)
    summary = score("fid")
    results = summary["results"]["predictions"]
    assert results["pairs"]["fid"] == 1.5
    assert "fid" not in results["one"]
    assert summary["not_computed"] == {"fid": "one: too few"}


def test_whatever_a_package_raises_there_is_a_report(score, monkeypatch, tmp_path, caplog):
    def load(name, _):
        if name == "niqe":
            raise AttributeError("module 'torch' has no attribute 'compile'")

        def musiq(restored, true):
            if len(restored) > 1:
                raise RuntimeError("CUDA out of memory")
            return 60.0

        return musiq

    monkeypatch.setattr(optional, "load", load)
    summary = score("niqe", "musiq")
    assert summary["not_computed"] == {
        "niqe": "AttributeError: module 'torch' has no attribute 'compile'",
        "musiq": "pairs: RuntimeError: CUDA out of memory",
    }
    assert summary["results"]["predictions"]["one"]["musiq"] == 60.0
    assert "CUDA out of memory" in (tmp_path / "job/report.html").read_text()
    assert json.loads((tmp_path / "job/summary.json").read_text()) == summary
    assert any(record.exc_info for record in caplog.records)  # with its traceback


def test_a_mean_over_some_of_the_images_says_so():
    rows = [{"psnr": 20.0, "lpips_alex": 0.25}, {"psnr": 30.0}, {"psnr": 40.0}]
    found = means(rows)
    assert found == {"images": 3, "psnr": 30.0, "lpips_alex": 0.25, "counts": {"lpips_alex": 1}}
    assert "counts" not in means(rows[1:])
    about = {"title": "S", "protocol": "p", "expected": 3, "found": 3}
    titles, (row,) = result_table({"results": {"v": {"s": found}}, "sets": {"s": about}})
    assert dict(zip(titles, row.scores.values(), strict=True)) == {
        "PSNR of the input": "-",
        "PSNR": "30.00",
        "LPIPS (Alex)": "0.2500 (1 image)",
    }
    assert averages({"s": found})["all"] == {"sets": ["s"], "psnr": 30.0, "lpips_alex": 0.25}
