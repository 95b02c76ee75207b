"""Golden numbers without this suite's own settings (optimisation level, precision, devices)."""

import json
import os
import pathlib
import subprocess
import sys

PROGRAM = pathlib.Path(__file__).parent / "golden" / "as_users_run.py"


def test_network_and_chains_equal_the_released_ones_as_users_run_them():
    own = ("XLA_", "JAX_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    environment["PYTHONPATH"] = str(PROGRAM.parents[2])
    done = subprocess.run(
        [sys.executable, PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # On accelerators float32 products round, see `model.matmul_precision`; there only CPUs count.
    assert found["unet"] < 1e-4
    assert found["posterior"] < 1e-3
    assert found["euler_sde"] < 1e-3
