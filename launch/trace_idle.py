"""Tell how long each device was idle while a profiler trace was taken.

python -m tpgdiff_jax.main --config=... --workdir=RUN --config.profile_steps=20,40
python launch/trace_idle.py RUN
"""

import argparse
import dataclasses
import pathlib
import sys

import tabulate

from tpgdiff_jax.training import profiling


def main(arguments: list[str] | None = None) -> int:
    """Print one row per device; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=pathlib.Path, help="a run's folder, or an .xplane.pb file")
    folder = parser.parse_args(arguments).trace
    try:
        found = profiling.device_idle(folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(profiling.newest_trace(folder))
    print(tabulate.tabulate([_row(device) for device in found], headers="keys"))
    return 0


def _row(device: profiling.DeviceIdle) -> dict[str, str]:
    row = dataclasses.asdict(device)
    row["seconds"] = f"{device.seconds:.4f}"
    row["idle"] = f"{device.idle:.2%}"
    between = device.idle_between
    row["idle_between"] = "not in this trace" if between is None else f"{between:.2%}"
    return row


if __name__ == "__main__":
    sys.exit(main())
