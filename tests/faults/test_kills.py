"""Programs killed at random moments, and started again, do what undisturbed ones do, to the bit."""

import json
import random
import signal
import time

import numpy as np
import pytest
from benchmark_rows import plain_rows
from PIL import Image
from training_runs import (
    assert_same,
    finish,
    metrics,
    start,
    start_program,
    wait_until,
    write_experiment,
)

from tpgdiff_jax.benchmark.job import ROWS
from tpgdiff_jax.checkpoints import published

STEPS = 300


def left_over(folder):
    """Return what only a program that is still writing may have there."""
    marks = (".partial", "orbax-checkpoint-tmp", ".corrupt")
    return [path for path in folder.rglob("*") if any(mark in path.name for mark in marks)]


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.faults
@pytest.mark.timeout(5400)
def test_a_training_killed_fifty_times(tiny_config, tmp_path, figure):
    tiny_config.optim.steps = STEPS
    tiny_config.checkpoint.every_steps = 5
    tiny_config.ema.more_decays = (0.9,)
    tiny_config.model.dropout_structure = 0.2
    experiment = tmp_path / "tiny.py"
    write_experiment(experiment, tiny_config)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(start(experiment, straight))
    begun, measured = time.monotonic(), start(experiment, tmp_path / "third")
    wait_until((tmp_path / "third" / "metrics.jsonl").exists, measured)
    startup = time.monotonic() - begun
    kill(measured)
    draw = random.Random(0)
    when = {"starting": 0, "saving": 0, "training": 0, "ending": 0}

    def reached():
        return max(metrics(broken), default=0) if (broken / "metrics.jsonl").exists() else 0

    def begun_steps():  # and finished ones, should a step have been quicker than this can look
        return {path.name for path in (broken / "checkpoints").glob("*")}

    for number in range(50):
        before, seen = reached(), begun_steps()
        process = start(experiment, broken)
        kind = ("starting", "saving", "training")[number % 3] if before < STEPS - 30 else "ending"
        if kind == "starting":
            time.sleep(draw.uniform(0, startup))
        elif kind == "saving":
            wait_until(lambda seen=seen: begun_steps() - seen, process)
            time.sleep(draw.uniform(0, 0.1))
        elif kind == "training":
            wanted = before + draw.randint(1, 12)
            wait_until(lambda wanted=wanted: reached() >= wanted, process)
        else:
            time.sleep(draw.uniform(startup / 2, 2 * startup))
        when[kind] += 1
        kill(process)
    finish(start(experiment, broken))
    assert_same(tiny_config, straight, broken)
    assert not left_over(broken)
    names = {path.name for path in straight.iterdir()}
    assert {path.name for path in broken.iterdir()} == names
    times = ", ".join(f"{count} while {kind}" for kind, count in when.items() if count)
    figure(f"50 kills ({times}): state, losses and weights equal to the bit, nothing left behind")


@pytest.fixture
def weights(tiny_system, tmp_path):
    """The tiny system's weights as a file."""
    path = tmp_path / "weights.safetensors"
    description = published.describe(tiny_system.config)
    published.save(path, tiny_system.variables["params"], description)
    return path


@pytest.fixture
def begin(tmp_path):
    """`begin(*flags)` -> the program, as a process; what it compiles is kept."""
    return lambda *flags: start_program(*flags, XDG_CACHE_HOME=str(tmp_path / "cache"))


def noise_photo(path, rng, size=(48, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)


def kill_while_it_works(begin, flags, done, kills, each, draw):
    """Kill a program `kills` times after it did a few things more; then let it end."""
    for _ in range(kills):
        wanted = done() + draw.randint(1, each)
        process = begin(*flags)
        wait_until(lambda wanted=wanted: done() >= wanted, process)
        time.sleep(draw.uniform(0, 0.05))
        kill(process)
    return finish(begin(*flags))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.faults)])
def test_a_folder_is_restored_in_spite_of_kills(kills, weights, begin, tmp_path, figure):
    photos, rng = tmp_path / "in", np.random.default_rng(0)
    for index in range(20 * kills):
        noise_photo(photos / f"{index:03d}.png", rng)
    flags = ["--mode=restore", f"--checkpoint={weights}", f"--input={photos}", "--seed=3"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(begin(*flags, f"--output={straight}"))

    def done():
        return len(list(broken.glob("[0-9]*.png")))

    words = [*flags, f"--output={broken}"]
    output, _ = kill_while_it_works(begin, words, done, kills, 15, random.Random(0))
    assert "0 failed" in output
    assert not left_over(broken)
    results = sorted(path.name for path in straight.glob("*.png"))
    assert sorted(path.name for path in broken.glob("*.png")) == results
    for name in results:
        assert (broken / name).read_bytes() == (straight / name).read_bytes(), name
    figure(f"restoring {20 * kills} photos, {kills} kills: equal to the bit, nothing left behind")


_JOB = """
from tpgdiff_jax.config import base_config
def get_config():
    config = base_config()
    config.benchmark.update({{"root": {root!r}, "metrics": ("psnr", "ssim"), "bucket": 64}})
    config.benchmark.sets = ({{"name": "pairs", "folder": "pairs", "degradation": "rain"}},)
    return config
"""


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_a_benchmark_is_scored_in_spite_of_kills(weights, begin, benchmarks_of, tmp_path, figure):
    experiment = tmp_path / "job.py"
    experiment.write_text(_JOB.format(root=str(benchmarks_of(200))))
    flags = ["--mode=eval", f"--config={experiment}", f"--checkpoint={weights}"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(begin(*flags, f"--output={straight}"))

    def done():
        return sum(path.read_text().count("\n") for path in (broken / ROWS).glob("*.jsonl"))

    words = [*flags, f"--output={broken}"]
    kill_while_it_works(begin, words, done, 20, 8, random.Random(0))
    assert plain_rows(broken) == plain_rows(straight)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (straight, broken)]
    assert summaries[0]["results"].keys() == summaries[1]["results"].keys()
    assert not left_over(broken)
    figure("scoring 200 pairs, 20 kills: the same rows to the bit, nothing left behind")


@pytest.fixture
def benchmarks_of(tmp_path):
    """`benchmarks_of(count)` -> a folder with that many pairs below `pairs`."""

    def make(count):
        rng = np.random.default_rng(0)
        for index in range(count):
            for side in ("LQ", "GT"):
                noise_photo(tmp_path / "sets" / "pairs" / side / f"{index:03d}.png", rng)
        return tmp_path / "sets"

    return make
