"""Files whose names are no valid text are scored like all others."""

import io
import os
import shutil
import zlib

import jax
import numpy as np
import pytest

from tpgdiff_jax.benchmark.finding import content_hash, open_set
from tpgdiff_jax.benchmark.report.tables import short_table
from tpgdiff_jax.benchmark.run import run_benchmark
from tpgdiff_jax.benchmark.sets import SetSpec
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.benchmark.work import kept_name
from tpgdiff_jax.distributed.sharding import make_mesh

NAME = b"caf\xe9"  # Latin-1


@pytest.fixture
def root(benchmarks, tmp_path):
    """Test sets in which one image, and a file that is none, have such names."""
    root = tmp_path / "root"
    shutil.copytree(benchmarks, root)
    try:
        for folder in ("pairs/LQ", "pairs/GT", "clean"):
            base = os.fsencode(root / folder)
            os.rename(base + b"/1.png", base + b"/" + NAME + b".png")
        with open(os.fsencode(root / "pairs/LQ") + b"/bad" + NAME + b".png", "wb") as file:
            file.write(b"no image")
    except OSError as error:
        pytest.skip(f"this file system takes no such names: {error}")
    return root


def test_a_name_that_is_no_text_stops_nothing(root, tiny_system, benchmark_config, tmp_path):
    benchmark_config.benchmark.update({"root": str(root), "steps": (1,)})
    settings = read_settings(benchmark_config)
    mesh = make_mesh(dict.fromkeys(("data", "fsdp", "tensor", "spatial"), 1), jax.devices()[:1])
    for _ in range(2):  # the lines are understood when the job goes on
        summary = run_benchmark(settings, tmp_path / "job", mesh, system=tiny_system, weights="w")
        for about in summary["sets"].values():
            assert not about["failed"]
            assert summary["results"]["posterior-1"][about["name"]]["images"] == 5
    lines = (tmp_path / "job/scores/process_0.jsonl").read_text().splitlines()
    assert len(lines) == 10
    restored = tmp_path / "job/restored/posterior-1/noisy" / os.fsdecode(NAME + b".png")
    assert restored.is_file()
    for file in ("report.html", "report.md", "scores.csv"):
        assert "caf\\udce9" in (tmp_path / "job" / file).read_text(encoding="utf-8")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    print(short_table(summary), file=terminal)
    terminal.flush()
    assert b"badcaf\\udce9.png" in terminal.buffer.getvalue()


def test_seeds_come_from_the_names_bytes(root):
    spec = SetSpec("n", "clean", "clean", gt="", sigma=25.0, recipe="haze:1")
    opened = open_set(spec, root)
    for item in opened.items:
        lq, gt = item.load(seed=1)
        assert lq.shape == gt.shape
    # Names that are text have the noise they always had.
    plain = open_set(SetSpec("n", "clean", "clean", gt="", sigma=25.0), root).items[0]
    lq, gt = plain.load(seed=1)
    rng = np.random.default_rng([1, zlib.crc32(plain.name.encode())])
    noisy = np.clip(gt + 25.0 * rng.standard_normal(gt.shape), 0, 255)
    np.testing.assert_array_equal(lq, np.round(noisy).astype(np.uint8))
    assert len(content_hash(opened.items)) == 64


def test_the_result_of_an_image_has_a_name_that_files_can_have():
    assert [kept_name(f"s/a.{suffix}") for suffix in ("png", "jpg")] == ["s/a.png", "s/a.jpg.png"]
    for suffix in ("jpg", "png", "jpeg"):
        name = kept_name("s/" + "\u96e8" * 83 + f".{suffix}")
        assert name.endswith(".png")
        assert len(name.encode()) <= 2 + 255
