"""--mode=restore as people call it: processes, devices, settings that do not fit."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.commands.flags import parse_strengths

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def weights(restorer, tmp_path):
    path = tmp_path / "weights.safetensors"
    params = jax.device_get(restorer._variables["params"])
    published.save(path, params, published.describe(restorer.config))
    return path


def start(tmp_path, *flags):
    devices = {"JAX_NUM_CPU_DEVICES": "2", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", "tpgdiff_jax.main", "--mode=restore", *map(str, flags)],
        cwd=ROOT,
        env=os.environ | devices,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_share_a_folder(restorer, weights, photo_folder, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (photo_folder / "3.png").write_bytes(b"no image")
    output = tmp_path / "out"
    flags = [f"--checkpoint={weights}", f"--input={photo_folder}", f"--output={output}"]
    flags += ["--seed=3", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    # The devices of process 0 speak to each other, without the other process.
    ways = [["--process_id=0", "--spatial=2"], ["--process_id=1"]]
    processes = [start(tmp_path, *flags, *way) for way in ways]
    said = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 1], said
    assert "process 0 of 2, 2 of 4 files: 2 restored, 0 were there already, 0 failed" in said[0][0]
    assert "process 1 of 2, 2 of 4 files: 1 restored, 0 were there already, 1 failed" in said[1][0]
    assert "3.png: not an image" in said[1][0]
    for name in ("0.png", "1.png", "2.png"):
        found = np.asarray(Image.open(output / name)).astype(int)
        np.testing.assert_allclose(found, restorer(photo_folder / name, seed=3), atol=1)
    rows = [
        json.loads(line)
        for index in range(2)
        for line in (output / f"restored_{index}.jsonl").read_text().splitlines()
    ]
    assert sorted(pathlib.Path(row["input"]).name for row in rows) == ["0.png", "1.png", "2.png"]
    assert {row["weights"] for row in rows} == {restorer.fingerprint}


def test_settings_that_do_not_fit_are_one_sentence(weights, photo_folder, tmp_path):
    flags = [f"--checkpoint={weights}", f"--input={photo_folder}", f"--output={tmp_path / 'out'}"]
    process = start(tmp_path, *flags, "--guidance=structure=2")
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 2
    assert "Traceback" not in said
    assert "error: guidance: structure=2" in said
    assert not list((tmp_path / "out").iterdir())


def test_strengths_are_read_from_the_command_line():
    assert parse_strengths(["semantic=2", "structure=0.5"]) == {"semantic": 2, "structure": 0.5}
    with pytest.raises(ValueError, match="--guidance=semantic: expected BRANCH=STRENGTH"):
        parse_strengths(["semantic"])
    with pytest.raises(ValueError, match="--guidance=semantic=nan: expected BRANCH=STRENGTH"):
        parse_strengths(["semantic=nan"])
