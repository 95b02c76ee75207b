"""The whole benchmark: report, optional scores, and the command line that survives everything."""

import html.parser
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tpgdiff_jax.benchmark import run
from tpgdiff_jax.benchmark.job import ROWS
from tpgdiff_jax.benchmark.report.html import sweeps
from tpgdiff_jax.benchmark.report.tables import NONE, comparison, markdown, show
from tpgdiff_jax.benchmark.run import run_benchmark
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.distributed.sharding import make_mesh
from tpgdiff_jax.evaluation import optional

ROOT = pathlib.Path(__file__).parent.parent.parent
MESH = {"data": 1, "fsdp": 1, "tensor": 1, "spatial": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_system, benchmarks):
    """A report of one step, with all priors and without one; (folder, summary)."""
    from tpgdiff_jax.config import base_config

    config = base_config().unlock()
    keys = {"root": str(benchmarks), "metrics": ("psnr", "ssim", "fid"), "bucket": 64}
    config.benchmark.update(keys | {"steps": (1,), "without": "semantic"})
    config.benchmark.sets = (
        {"preset": "rain100l", "folder": "pairs", "gt_rename": None},
        {"name": "wild", "folder": "clean", "layout": "unpaired", "lq": ""},
        "gopro",
    )
    folder = tmp_path_factory.mktemp("report") / "job"
    mesh = make_mesh(MESH, jax.devices()[:1])
    settings = read_settings(config)
    summary = run_benchmark(settings, folder, mesh, system=tiny_system, weights="w", title="tiny")
    return folder, summary


def test_a_report_shows_no_picture_of_an_older_input(made, benchmark_config, monkeypatch):
    folder, _ = made
    settings = read_settings(benchmark_config)
    sets = run.open_sets(settings)[0]
    seen = []
    monkeypatch.setattr(run, "add_set_scores", lambda *args: seen.append(args[-1]))
    monkeypatch.setattr(run, "chosen_pictures", lambda *args: [])
    monkeypatch.setattr(run, "write_reports", lambda *args: None)
    item = next(item for opened in sets for item in opened.items)
    key = {"variant": "a", "set": item.spec.name, "image": item.name}
    path = run.image_path(folder, *key.values())
    path.parent.mkdir(parents=True)
    path.touch()
    for row, expected in ((key, path), (key | {"kept": False}, None)):
        run._report(settings, folder, {"variants": [{"name": "a"}]}, [row], sets, None)
        assert seen[-1]("a", item) == expected


class Cells(html.parser.HTMLParser):
    """Gather the cells that name their variant, set and score."""

    def __init__(self):
        super().__init__()
        self.found, self._open, self.links = {}, None, []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[key] for key in ("src", "href") if key in attrs]
        if "data-score" in attrs:
            self._open = tuple(attrs[f"data-{key}"] for key in ("variant", "set", "score"))

    def handle_data(self, data):
        if self._open:
            self.found[self._open] = data
            self._open = None


def test_the_pages_numbers_are_those_of_the_json(made):
    folder, _ = made
    summary = json.loads((folder / "summary.json").read_text())
    cells = Cells()
    cells.feed((folder / "report.html").read_text())
    expected = {
        (variant, set_name, name): show(name, value)
        for variant, result in summary["results"].items()
        for set_name, scores in result.items()
        for name, value in scores.items()
        if name not in ("images", "nfe", "seconds")
    }
    shown = {key: text for key, text in cells.found.items() if text != NONE}
    assert shown == expected
    assert len(expected) == 2 * 4  # variants, by PSNR and SSIM of input and output
    # One file that needs nothing else.
    assert all(link.startswith("data:image/jpeg;base64,") for link in cells.links)
    assert len(cells.links) > 3


def test_means_are_those_of_the_lines(made):
    folder, summary = made
    lines = (folder / ROWS / "process_0.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    for variant, result in summary["results"].items():
        chosen = [r["psnr"] for r in rows if (r["variant"], r["set"]) == (variant, "rain100l")]
        assert len(chosen) == result["rain100l"]["images"] == 5
        assert result["rain100l"]["psnr"] == pytest.approx(np.mean(chosen), abs=1e-5)
        assert "psnr" not in result["wild"]
    assert (folder / "scores.csv").read_text().count("\n") == 1 + len(rows)


def test_a_prior_less_gives_other_scores(made):
    _, summary = made
    results = summary["results"]
    assert sorted(results) == ["posterior-1", "posterior-1-no-semantic"]
    assert len({result["rain100l"]["psnr"] for result in results.values()}) == 2


def test_quality_is_plotted_against_calls_and_time():
    def variant(steps, without=(), ensemble=1, passes=1):
        name = f"{steps}{without}{ensemble}{passes}"
        common = {"name": name, "sampler": "ode2", "steps": steps, "without": without}
        return common | {"ensemble": ensemble, "passes": passes}

    variants = [variant(2), variant(8), variant(8, ("semantic",)), variant(2, ensemble=4)]
    variants += [variant(2, passes=2)]
    averages = {
        v["name"]: {
            "all": {
                **{"psnr": 20.0 + v["steps"], "seconds": v["steps"] / 10},
                "nfe": v["steps"] * v["ensemble"] * (v["passes"] + 1) / 2,
            }
        }
        for v in variants
    }
    plots = sweeps({"variants": variants, "averages": averages})
    assert [title for title, _ in plots] == [
        "Quality against network calls per image",
        "Quality against seconds per image",
    ]
    for _, svg in plots:
        assert svg.count("<circle") == 5
        assert "ode2 without semantic" in svg
    assert "<title>ode2, 4 views: 8, 22.00</title>" in plots[0][1]
    assert "<title>ode2, up to 2 passes: 3, 22.00</title>" in plots[0][1]
    assert "<title>ode2: 8, 28.00</title>" in plots[0][1]
    assert "<title>ode2: 0.2, 22.00</title>" in plots[1][1]
    assert sweeps({"variants": variants[:1], "averages": averages}) == []


def test_ours_stands_among_the_published_rows(made):
    _, summary = made
    columns, lines = comparison(summary, "five")
    place = columns.index("Rain100L")
    ours = [line for line in lines if line.ours]
    assert len(ours) == 2
    assert all(line.cells[place].endswith(" *") for line in ours)  # 5 of 100 images
    theirs = {line.method: line for line in lines if not line.ours}
    assert theirs["TPGDiff"].cells[place] == "38.05 / 0.982"
    assert theirs["TPGDiff"].comparable
    assert not theirs["PromptIR"].comparable
    assert theirs["PromptIR"].protocol == "promptir"
    assert "22.29" in theirs["VLU-Net"].remark
    assert all(line.source for line in lines)
    text = markdown(summary)
    assert "VLU-Net" in text
    assert "5 images instead of 100" in text


def test_what_is_missing_is_said(made):
    folder, summary = made
    assert "seungjunnah" in summary["absent"]["gopro"]
    assert "fid" in summary["not_computed"]
    page = (folder / "report.html").read_text()
    assert "Absent" in page
    assert "Not computed" in page
    assert "fid" not in str(summary["results"])


def test_the_classifiers_confusion_is_counted(made):
    _, summary = made
    counts = summary["confusion"]["posterior-1"]
    assert list(counts) == ["rain"]
    assert sum(counts["rain"].values()) == 5


def test_another_job_in_the_folder_is_refused(made, tiny_system, benchmark_config):
    folder, _ = made
    mesh = make_mesh(MESH, jax.devices()[:1])
    with pytest.raises(ValueError, match="another job; it differs in weights, metrics"):
        run_benchmark(
            read_settings(benchmark_config), folder, mesh, system=tiny_system, weights="other"
        )


def test_fid_is_used_where_its_package_and_weights_are(tmp_path, monkeypatch):
    class Metric:
        def __init__(self, metric_dtype, weights_cache_dir):
            self.seen = {True: 0.0, False: 0.0}

        def update(self, image, real):
            assert image.shape[-1] == 3
            self.seen[real] += float(image.mean())

        def compute(self):
            return abs(self.seen[True] - self.seen[False])

    module = type(sys)("fidax.fid")
    module.FrechetInceptionDistance = Metric
    monkeypatch.setitem(sys.modules, "fidax", type(sys)("fidax"))
    monkeypatch.setitem(sys.modules, "fidax.fid", module)
    with pytest.raises(optional.NotComputedError, match=r"inception_v3_weights_fid\.pickle is mis"):
        optional.load("fid", str(tmp_path))
    (tmp_path / "inception_v3_weights_fid.pickle").write_bytes(b"")
    pair = tuple(np.full((8, 8, 3), value, np.uint8) for value in (0, 255))
    monkeypatch.setenv("HOME", str(tmp_path))
    score = optional.load("fid", "~")  # which no shell replaces behind a `=`
    assert score([tmp_path] * 2, [pair] * 2) == pytest.approx(2.0)
    with pytest.raises(optional.NotComputedError, match="two images"):
        score([tmp_path], [pair])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sets": ("bsd",)}, "'bsd' is no preset"),
        ({"without": "semantics"}, "without='semantics'"),
    ],
)
def test_wrong_keys_stop_the_job_at_once(benchmark_config, changes, words):
    benchmark_config.benchmark.update(changes)
    with pytest.raises(ValueError, match=words):
        read_settings(benchmark_config)


def test_what_is_named_twice_is_restored_once(benchmark_config):
    benchmark_config.benchmark.update({"steps": (2, 4, 2), "samplers": ("ode2", "ode2")})
    variants = read_settings(benchmark_config).variants("posterior", 100)
    assert [variant.name for variant in variants] == ["ode2-2", "ode2-4"]


def test_nothing_to_score_is_an_error_that_says_where_to_look(benchmark_config, tmp_path):
    benchmark_config.benchmark.update({"root": str(tmp_path), "sets": ("lol",)})
    with pytest.raises(ValueError, match=r"none of the test sets lol can be scored[\s\S]*daooshee"):
        run_benchmark(
            read_settings(benchmark_config),
            tmp_path / "out",
            make_mesh(MESH, jax.devices()[:1]),
            predictions=tmp_path,
        )


@pytest.fixture
def command(tiny_system, benchmark_config, tmp_path):
    """The command line that scores the tiny system, and its output folder."""
    weights = tmp_path / "tiny.safetensors"
    description = published.describe(tiny_system.config)
    published.save(weights, tiny_system.variables["params"], description)
    experiment = tmp_path / "job.py"
    changed = json.loads(benchmark_config.to_json())["benchmark"]
    experiment.write_text(
        "from tpgdiff_jax.config import base_config\n"
        "def get_config():\n"
        "    config = base_config()\n"
        f"    config.benchmark.update({changed!r})\n"
        "    for key in ('sets', 'metrics', 'samplers', 'steps'):\n"
        "        config.benchmark[key] = tuple(config.benchmark[key])\n"
        "    return config\n"
    )
    output = tmp_path / "out"
    words = [sys.executable, "-m", "tpgdiff_jax.main", f"--config={experiment}", "--mode=eval"]
    return [*words, f"--checkpoint={weights}", f"--output={output}"], output


def start(words):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=ROOT, env=environment, **pipes)


def test_two_processes_find_the_same_digits(command, undisturbed, plain_rows):
    words, output = command
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    both = [start([*words, *flags, f"--process_id={index}"]) for index in range(2)]
    texts = [process.communicate(timeout=400) for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    for index in range(2):
        assert (output / ROWS / f"process_{index}.jsonl").read_text().count("\n") == 5
    assert plain_rows(output) == undisturbed
    # Both have filed their lines under the files as process 0 sees them.
    summary = json.loads((output / "summary.json").read_text())
    assert not any(about["failed"] for about in summary["sets"].values())
    assert "report.html" in texts[0][0]


_SLOW_REPORT = """
import json, pathlib, sys, time
import jax
address, index, folder, benchmark = *sys.argv[1:4], json.loads(sys.argv[4])
jax.distributed.initialize(address, 2, int(index))
from tpgdiff_jax.benchmark import run
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.config import base_config
from tpgdiff_jax.distributed.sharding import make_mesh
config = base_config().unlock()
config.benchmark.update(benchmark)
report = run._report

def slow_report(*args):
    while not pathlib.Path(folder, "go").exists():
        time.sleep(0.1)
    report(*args)

run._report = slow_report
mesh = make_mesh({"data": -1, "fsdp": 1, "tensor": 1, "spatial": 1})
theirs = pathlib.Path(benchmark["root"], "pairs", "LQ")
run.run_benchmark(read_settings(config), pathlib.Path(folder, "job"), mesh, predictions=theirs)
"""


def test_no_process_waits_for_the_report_that_process_0_writes(benchmarks, tmp_path):
    """It may take longer than the end of a job of several processes is waited for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    keys = {"root": str(benchmarks), "metrics": ["psnr"]}
    keys["sets"] = [{"name": "pairs", "folder": "pairs"}]
    words = [sys.executable, "-c", _SLOW_REPORT, address]
    both = [start([*words, str(index), str(tmp_path), json.dumps(keys)]) for index in range(2)]
    try:
        assert both[1].wait(timeout=120) == 0, both[1].stderr.read()
        assert both[0].poll() is None
        (tmp_path / "go").touch()
        assert both[0].wait(timeout=120) == 0, both[0].stderr.read()
    finally:
        for process in both:
            process.kill()
            process.communicate()
    summary = json.loads((tmp_path / "job" / "summary.json").read_text())
    assert summary["results"]["predictions"]["pairs"]["images"] == 5


@pytest.mark.slow
def test_a_killed_command_goes_on(command, undisturbed, plain_rows):
    words, output = command
    words = [*words, "--config.benchmark.batch_size=1"]
    killed = start(words)
    deadline = time.monotonic() + 300
    lines = output / ROWS / "process_0.jsonl"
    while not (lines.is_file() and lines.read_text().count("\n") >= 2) and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert 2 <= len(plain_rows(output)) < len(undisturbed)
    again = start(words)
    _, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert "are done already" in errors
    assert plain_rows(output) == undisturbed
