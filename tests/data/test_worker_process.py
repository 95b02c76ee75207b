"""Processes that make batches end with the run that started them."""

import subprocess
import sys

PROGRAM = """
import multiprocessing, os, time
from tpgdiff_jax.data.worker_process import prepare

def work():
    prepare(0, 1)
    print("ready", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(600)
"""


def test_a_worker_ends_when_its_run_is_killed(tmp_path):
    path = tmp_path / "run.py"
    path.write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.kill()
    # The worker holds the other end of the pipe until it ends.
    output, _ = process.communicate(timeout=60)
    assert output == ""
