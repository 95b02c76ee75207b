"""Lines of a job: one job at a time writes them."""

import json
import subprocess
import sys

import jax
import pytest

from tpgdiff_jax.benchmark.job import ROWS
from tpgdiff_jax.benchmark.rows import lines_of, locked, read_rows
from tpgdiff_jax.benchmark.run import run_benchmark
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.distributed.sharding import make_mesh
from tpgdiff_jax.reporting import json_lines

HOLD = """
import pathlib, sys
from tpgdiff_jax.benchmark.rows import locked
with locked(pathlib.Path(sys.argv[1]), 0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def score(benchmarks, benchmark_config, tmp_path):
    """`score()` runs a small job into `tmp_path/job`."""

    def run():
        benchmark_config.benchmark.sets = ({"name": "pairs", "folder": "pairs"},)
        mesh = make_mesh(dict.fromkeys(("data", "fsdp", "tensor", "spatial"), 1), jax.devices()[:1])
        settings, folder = read_settings(benchmark_config), tmp_path / "job"
        return run_benchmark(settings, folder, mesh, predictions=benchmarks / "pairs/LQ")

    return run


def test_a_line_with_a_picture_counts_before_one_without(tmp_path):
    """Whichever process wrote it: the next job may have fewer."""
    key = {"variant": "a", "set": "s", "image": "1.png"}
    lines = key | {"psnr": 2.0}, key | {"psnr": 1.0, "kept": False}, key | {"error": "no"}
    for process, row in enumerate(lines):
        json_lines.append(lines_of(tmp_path, process), row)
    assert read_rows(tmp_path)["a", "s", "1.png"] == lines[0]


def test_lines_of_another_kind_are_left_out(tmp_path):
    good = {"variant": "posterior-2", "set": "wild", "image": "a.png", "psnr": 20.0}
    strange = (
        '{"file": "a.png"}',
        "[1, 2]",
        "3",
        "null",
        '"text"',
        "no JSON",
        '{"variant": ["a"], ',
    )
    unhashable = json.dumps(good | {"image": ["a.png"]})
    lines = [*strange, unhashable, json.dumps(good)]
    (tmp_path / "process_0.jsonl").write_bytes(b"caf\xe9\n" + "\n".join(lines).encode())
    assert read_rows(tmp_path) == {("posterior-2", "wild", "a.png"): good}
    assert read_rows(tmp_path, {}) == {}


def test_a_second_job_in_the_folder_is_refused_while_the_first_runs(score, tmp_path):
    score()
    lines = (tmp_path / "job" / ROWS / "process_0.jsonl").read_bytes()
    words = [sys.executable, "-c", HOLD, str(tmp_path / "job" / ROWS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(ValueError, match=f"running writes to {tmp_path}/job; wait"):
                score()
        finally:
            other.kill()  # even so the lock goes with it
    assert (tmp_path / "job" / ROWS / "process_0.jsonl").read_bytes() == lines
    assert score() is not None


def test_the_processes_of_one_job_do_not_lock_each_other_out(tmp_path):
    refused = pytest.raises(ValueError, match="Another job")
    with locked(tmp_path, 0), locked(tmp_path, 1), refused, locked(tmp_path, 1):
        pass
    with locked(tmp_path, 1):
        pass
