"""An hour of training and validation in turn: memory, threads and open files stay as they were."""

import concurrent.futures
import pathlib
import signal
import time

import numpy as np
import pytest
from PIL import Image
from training_runs import finish, metrics, start, wait_until, write_experiment

MINUTES = 60


def use_of(process):
    """Return (MiB of memory, threads, open files) of a process, as Linux counts them."""
    about = pathlib.Path("/proc", str(process.pid))
    status = dict(
        line.split(":", 1) for line in (about / "status").read_text().splitlines() if ":" in line
    )
    memory = int(status["VmRSS"].split()[0]) / 1024
    return memory, int(status["Threads"]), len(list((about / "fd").iterdir()))


@pytest.mark.faults
@pytest.mark.timeout(MINUTES * 60 + 1200)
@pytest.mark.skipif(not pathlib.Path("/proc/self/fd").exists(), reason="needs Linux")
def test_an_hour_of_training_and_validation(tiny_config, photo_folder, tmp_path, figure):
    tiny_config.optim.steps = 10_000_000
    tiny_config.checkpoint.every_steps = 50
    tiny_config.log.every_steps = 50
    tiny_config.eval.every_steps = 50
    tiny_config.data.eval_folder = str(tmp_path / "others")
    (tmp_path / "others").mkdir()
    for path in photo_folder.iterdir():
        Image.open(path).rotate(180).save(tmp_path / "others" / path.name)
    experiment, workdir = tmp_path / "tiny.py", tmp_path / "run"
    write_experiment(experiment, tiny_config)
    process = start(experiment, workdir)
    wait_until(lambda: (workdir / "checkpoints" / "100").is_dir(), process)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ended = pool.submit(finish, process, seconds=MINUTES * 60 + 600)  # reads what it says
        used, end = [], time.monotonic() + MINUTES * 60
        while time.monotonic() < end and not ended.done():
            used.append(use_of(process))
            time.sleep(5)
        process.send_signal(signal.SIGTERM)
        ended.result()
    quarters = np.array_split(np.array(used), 4)
    (memory, threads, files), (memory_end, threads_end, files_end) = (
        np.median(quarters[index], axis=0) for index in (1, 3)
    )
    steps = max(metrics(workdir))
    figure(
        f"{MINUTES} minutes, {steps} steps, {steps // 50} validations and saves: memory "
        f"{memory:.0f} -> {memory_end:.0f} MiB, threads {threads:.0f} -> {threads_end:.0f}, "
        f"files {files:.0f} -> {files_end:.0f} (medians of the second and the last quarter)"
    )
    assert memory_end < memory * 1.03
    assert threads_end <= threads + 1
    assert files_end <= files + 1
