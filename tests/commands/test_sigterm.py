"""SIGTERM to a process that works with others: a training saves, every other program ends."""

import signal

import pytest

_CODE = """
import sys, time
from tpgdiff_jax.commands.processes import Joining, join_processes
join_processes(Joining("on", sys.argv[1], 1, 0, trains=sys.argv[2] == "train"))
print("joined", flush=True)
time.sleep(2 if sys.argv[2] == "train" else 60)
print("went on", flush=True)
"""


@pytest.mark.parametrize("program", ["train", "eval"])
def test_sigterm(start_python, free_address, program):
    process = start_python(_CODE, free_address, program)
    assert process.stdout.readline() == "joined\n", process.communicate()
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=60)
    if program == "train":
        assert (process.returncode, said) == (0, "went on\n"), errors
    else:
        assert (process.returncode, said) == (-signal.SIGTERM, ""), errors
