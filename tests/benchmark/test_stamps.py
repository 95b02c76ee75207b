"""Scores belong to files: what has changed since is scored again, and nothing else is."""

import json
import os
import shutil
import threading

import jax
import pytest

from tpgdiff_jax.benchmark import claiming
from tpgdiff_jax.benchmark.claiming import claim
from tpgdiff_jax.benchmark.finding import open_set
from tpgdiff_jax.benchmark.job import ROWS
from tpgdiff_jax.benchmark.rows import lines_of, read_rows
from tpgdiff_jax.benchmark.run import run_benchmark
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.distributed.sharding import make_mesh
from tpgdiff_jax.reporting import json_lines, locks
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.json_lines import JsonLines

KEY = ("predictions", "pairs", "1.png")


@pytest.fixture
def outputs(benchmarks, tmp_path):
    """Somebody's outputs: the degraded images themselves."""
    shutil.copytree(benchmarks / "pairs/LQ", tmp_path / "outs/pairs")
    return tmp_path / "outs"


@pytest.fixture
def score(benchmarks, benchmark_config, tmp_path):
    """`score(outputs, **keys of config.benchmark)` -> summary of the job in `tmp_path/job`."""

    def run(outputs, **keys):
        sets = ({"name": "pairs", "folder": "pairs"},)
        keys = {"root": str(benchmarks), "sets": sets} | keys
        benchmark_config.benchmark.update(keys)
        mesh = make_mesh(dict.fromkeys(("data", "fsdp", "tensor", "spatial"), 1), jax.devices()[:1])
        settings = read_settings(benchmark_config)
        return run_benchmark(settings, tmp_path / "job", mesh, predictions=outputs)

    return run


def lines(tmp_path):
    return (tmp_path / "job" / ROWS / "process_0.jsonl").read_text().splitlines()


def psnr(summary):
    return summary["results"]["predictions"]["pairs"]["psnr"]


def identical(summary):
    return summary["results"]["predictions"]["pairs"].get("identical", {})


def test_outputs_that_became_better_are_scored_again(score, outputs, benchmarks, tmp_path):
    before = score(outputs)
    shutil.copy(benchmarks / "pairs/GT/1.png", outputs / "pairs/1.png")
    after = score(outputs)
    assert identical(after) == {"psnr": 1}
    assert identical(before) == {}
    assert len(lines(tmp_path)) == 5 + 1  # the others were not scored again
    report = (tmp_path / "job/scores.csv").read_text()
    assert sum(",inf" in line for line in report.splitlines()) == 1


def test_same_files_elsewhere_are_not_scored_again(score, outputs, tmp_path):
    before = score(outputs)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(outputs, elsewhere)  # keeps the times
    shutil.rmtree(outputs)
    elsewhere.rename(outputs)
    assert psnr(score(outputs)) == psnr(before)
    assert len(lines(tmp_path)) == 5
    os.utime(outputs / "pairs/1.png", ns=(1, 1))
    score(outputs)
    assert len(lines(tmp_path)) == 6


@pytest.mark.parametrize("side", ["LQ", "GT"])
def test_changed_inputs_and_truths_are_noticed(score, outputs, benchmarks, tmp_path, side):
    root = tmp_path / "root"
    shutil.copytree(benchmarks, root)
    before = score(outputs, root=str(root))
    shutil.copy(root / "pairs/LQ/4.png", root / "pairs" / side / "1.png")
    after = score(outputs, root=str(root))
    name = "input_psnr" if side == "LQ" else "psnr"
    old, new = (summary["results"]["predictions"]["pairs"][name] for summary in (before, after))
    assert new < old - 1
    assert len(lines(tmp_path)) == 6


def test_an_output_that_became_unreadable_has_no_score(score, outputs):
    score(outputs)
    (outputs / "pairs/1.png").write_bytes(b"no image")
    summary = score(outputs)
    assert summary["results"]["predictions"]["pairs"]["images"] == 4
    (error,) = summary["sets"]["pairs"]["failed"].values()
    assert "not an image" in error
    (outputs / "pairs/2.png").unlink()
    assert score(outputs)["results"]["predictions"]["pairs"]["images"] == 3


def test_files_that_change_under_the_job_have_no_score_yet(score, outputs, benchmarks, monkeypatch):
    write = JsonLines.write

    def write_and_replace(*args):
        write(*args)
        shutil.copy(benchmarks / "pairs/GT/1.png", outputs / "pairs/1.png")

    monkeypatch.setattr(JsonLines, "write", write_and_replace)
    summary = score(outputs)
    monkeypatch.undo()
    (error,) = summary["sets"]["pairs"]["failed"].values()
    assert "changed while the job ran" in error
    assert summary["results"]["predictions"]["pairs"]["images"] == 4
    assert identical(score(outputs)) == {"psnr": 1}


def test_the_lines_of_other_files_never_count(tmp_path):
    """Process 1's line is read last, but it is process 0's that speaks of the files now there."""
    names = dict(zip(("variant", "set", "image"), KEY, strict=True))
    for process, (size, score) in enumerate(((2, 30.0), (1, 20.0))):
        row = names | {"psnr": score, "files": {"gt": [size, 7]}}
        json_lines.append(lines_of(tmp_path, process), row)
    assert read_rows(tmp_path, {KEY: {"gt": [2, 7]}})[KEY]["psnr"] == 30.0
    assert read_rows(tmp_path, {KEY: {"gt": [1, 7]}})[KEY]["psnr"] == 20.0
    assert read_rows(tmp_path, {KEY: {"gt": [3, 7]}}) == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"root": "other"}, "differs in root"),
        ({"lq": "GT"}, "differs in lq of pairs"),
        ({"gt": "LQ"}, "differs in gt of pairs"),
        ({"gt_rename": ("^x", "y")}, "differs in gt_rename of pairs"),
    ],
)
def test_other_files_are_another_job(benchmarks, benchmark_config, tmp_path, change, words):
    root = tmp_path / "other"
    shutil.copytree(benchmarks, root)

    def claim_with(gt_rename=("^a", "b"), root=benchmarks, **fields):
        entry = {"name": "pairs", "folder": "pairs", "gt_rename": gt_rename} | fields
        benchmark_config.benchmark.update({"root": str(root), "sets": (entry,)})
        settings = read_settings(benchmark_config)
        opened = [open_set(spec, settings.root) for spec in settings.specs]
        claim(tmp_path / "job", settings.identity(), opened)

    claim_with()
    claim_with()  # the same job goes on
    change = change | ({"root": root} if "root" in change else {})
    with pytest.raises(ValueError, match=words):
        claim_with(**change)


def test_what_a_degradation_is_called_is_no_other_job(benchmarks, benchmark_config, tmp_path):
    def claim_with(degradation):
        entry = {"name": "pairs", "folder": "pairs", "degradation": degradation}
        benchmark_config.benchmark.update({"root": str(benchmarks), "sets": (entry,)})
        settings = read_settings(benchmark_config)
        opened = [open_set(spec, settings.root) for spec in settings.specs]
        claim(tmp_path / "job", settings.identity(), opened)

    claim_with("blur")
    path = tmp_path / "job/job.json"
    described = json.loads(path.read_text())
    described["sets"]["pairs"]["degradation"] = "blur"  # as older programs wrote it
    path.write_text(json.dumps(described))
    claim_with("blur|motion_blur")


def test_the_sets_may_be_named_relative_to_the_folder_one_is_in(
    benchmarks, benchmark_config, monkeypatch
):
    benchmark_config.benchmark.root = str(benchmarks)
    whole = read_settings(benchmark_config).identity()
    monkeypatch.chdir(benchmarks.parent)
    benchmark_config.benchmark.root = benchmarks.name
    assert read_settings(benchmark_config).identity() == whole


def test_numbers_of_another_type_are_another_job_unless_nothing_tells_of_it(tmp_path):
    claim(tmp_path, {"weights": "a"}, [])  # as older versions did
    claim(tmp_path, {"weights": "a", "dtype": "bfloat16"}, [])
    claim(tmp_path, {"weights": "a"}, [])  # a merge, which computes nothing
    with pytest.raises(UserError, match="differs in dtype"):
        claim(tmp_path, {"weights": "a", "dtype": "float32"}, [])
    with pytest.raises(UserError, match="differs in predictions"):
        claim(tmp_path, {"predictions": "a"}, [])


def test_jobs_that_begin_together_claim_their_folder_in_turn(tmp_path):
    """Between two looks of one, the other may have written what looks foreign to the first."""
    lock = locks.take(tmp_path / claiming._CLAIMING, tmp_path)
    other = threading.Thread(target=claim, args=(tmp_path, {"weights": "a"}, []))
    other.start()
    other.join(0.3)
    assert other.is_alive()
    assert not (tmp_path / "job.json").exists()
    lock.release()
    other.join(30)
    assert not other.is_alive()
    assert (tmp_path / "job.json").exists()
