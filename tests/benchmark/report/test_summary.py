"""Summaries: what one package or set lacks costs nothing else, and every mean says of how many."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.benchmark.job import predicted
from tpgdiff_jax.benchmark.report import html
from tpgdiff_jax.benchmark.report.summary import averages, confusion, means
from tpgdiff_jax.benchmark.report.tables import comparison, remarks, result_table
from tpgdiff_jax.benchmark.run import run_benchmark
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.distributed.sharding import make_mesh
from tpgdiff_jax.evaluation import optional

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


def test_scores_of_a_set_see_outputs_and_truths_cut_as_the_other_scores_do(
    benchmarks, benchmark_config, tmp_path, monkeypatch
):
    """SOTS indoor's truths are wider than its hazy pictures."""
    root, outs = tmp_path / "root", tmp_path / "outs" / "wide"
    shutil.copytree(benchmarks / "pairs", root / "wide")
    shutil.copytree(root / "wide" / "LQ", outs)
    for path in (root / "wide" / "GT").iterdir():
        with Image.open(path) as image:
            wide = Image.new("RGB", (image.width + 20, image.height + 20))
            wide.paste(image, (10, 10))
        wide.save(path)
    entry = {"name": "wide", "folder": "wide", "centre_crop": True}
    keys = {"root": str(root), "sets": (entry,), "metrics": ("psnr", "fid")}
    benchmark_config.benchmark.update(keys)
    shapes = []

    def fid(files, pairs):
        shapes.extend((restored.shape, true.shape) for restored, true in pairs)
        return 1.5

    monkeypatch.setattr(optional, "load", lambda *_: fid)
    mesh = make_mesh(MESH, jax.devices()[:1])
    settings = read_settings(benchmark_config)
    run_benchmark(settings, tmp_path / "job", mesh, predictions=tmp_path / "outs")
    assert shapes
    assert all(restored == true for restored, true in shapes)


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


def confusion_page(kind, predictions, truth="haze+rain"):
    """Return the confusion matrix's part of a report's page."""
    rows = [{"variant": "v", "truth": truth, "predicted": name} for name in predictions]
    about = {"title": "S", "protocol_text": "p", "seed_rule": "files as they are"}
    sets = {"s": about | {key: {} for key in ("remarks", "skipped", "failed")}}
    job = {"classification": kind, "seed": 1, "title": "", "date": "", "version": "", "devices": ""}
    summary = {
        "job": job | {"processes": 1, "weights": "w"},
        **{"variants": [], "sets": sets, "absent": {}, "results": {}, "averages": {}},
        **{"confusion": {"v": confusion(rows, "v")}, "not_computed": {}},
    }
    return html.page(summary, rows, []).partition("took the images for")[2]


def test_mixtures_are_right_where_all_are_named_and_no_others():
    names = ("haze", "rain", "snow")
    answers = [(0.9, 0.8, 0.1), (0.9, 0.4, 0.1), (0.9, 0.8, 0.7), (0.1, 0.2, 0.3)]
    rows = [predicted(np.array(answer), names, "multi") for answer in answers]
    found = [row["predicted"] for row in rows]
    assert found == ["haze+rain", "haze", "haze+rain+snow", "nothing"]
    assert rows[0]["probability"] == pytest.approx(0.9 * 0.8 * 0.9)
    assert "<td>25 %</td>" in confusion_page("multi", found)
    assert "<td>25 %</td>" in confusion_page("multi", found, truth="rain + haze")
    assert "<td>50 %</td>" in confusion_page("multi", ["haze", "haze+rain"], truth="haze")


def test_a_classifier_of_one_degradation_is_not_judged_by_mixtures():
    row = predicted(np.array([0.2, 0.7, 0.1]), ("haze", "rain", "snow"), "single")
    assert row == {"predicted": "rain", "probability": 0.7}
    page = confusion_page("single", ["rain", "haze"])
    assert "<td>-</td>" in page
    assert "%" not in page.partition("<script>")[0]
    assert "<td>50 %</td>" in confusion_page("single", ["rain", "haze"], truth="haze")


def test_several_answers_may_be_right():
    page = confusion_page("single", ["cloud_thin", "haze"], truth="cloud_thin|cloud_thick")
    assert "<td>50 %</td>" in page
    assert "<td>cloud_thin or cloud_thick</td>" in page
    page = confusion_page("single", ["rain"], truth="haze+rain|rain")
    assert "<td>100 %</td>" in page


def test_images_equal_to_their_truth_are_counted_and_left_out_of_the_mean():
    rows = [{"psnr": 20.0}, {"psnr": "inf"}, {"psnr": 30.0, "input_psnr": "inf"}]
    found = means(rows)
    assert found == {
        **{"images": 3, "psnr": 25.0, "input_psnr": "inf"},
        "counts": {"input_psnr": 1},
        "identical": {"psnr": 1, "input_psnr": 1},
    }
    about = {"title": "S", "protocol": "p", "expected": 3, "found": 3}
    about |= {key: {} for key in ("remarks", "skipped", "failed")}
    summary = {"results": {"v": {"s": found}}, "sets": {"s": about}}
    titles, (row,) = result_table(summary)
    assert row.scores == {"input_psnr": "inf", "psnr": "25.00 (2 images)"}
    about["remarks"] = ["its files have another hash"]
    assert remarks(summary | {"absent": {}, "not_computed": {}}) == {
        "About the test sets": ["S: its files have another hash"],
        "Identical to the truth": [
            "v, S: 1 of 3 outputs equal their truth; PSNR is the mean of the others.",
            "v, S: 1 of 3 degraded images equal their truth; PSNR of the input is infinite.",
        ],
    }


def test_a_set_of_equal_images_does_not_make_every_average_infinite():
    equal, other = means([{"psnr": "inf", "ssim": 1.0}]), means([{"psnr": 20.0, "ssim": 0.5}])
    found = averages({"equal": equal, "other": other})["all"]
    assert found == {"sets": ["equal", "other"], "psnr": 20.0, "ssim": 0.75}
    assert "psnr" not in averages({"equal": equal})["all"]


def test_a_part_of_a_published_set_is_marked_whatever_count_the_job_gives():
    about = {"remarks": [], "expected": 5, "found": 5, "protocol": "tpgdiff"}
    summary = {"sets": {"lol": about}, "results": {"v": {"lol": means([{"psnr": 20.0}] * 5)}}}
    summary |= {"averages": {"v": {}}, "job": {"title": ""}}
    (ours,) = [line for line in comparison(summary, "five")[1] if line.ours]
    assert (ours.cells[0], ours.remark) == ("20.00 / - *", "* not the whole benchmark: lol")
