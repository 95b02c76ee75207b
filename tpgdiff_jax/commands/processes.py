"""Start-up of one process or several, and of its devices: each mistake is one sentence."""

import os
import re
import socket
import time

from tpgdiff_jax.reporting.errors import UserError

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):(\d{1,5})")
_PATIENCE = 300  # seconds, as JAX has
_FIRST = "--coordinator=HOST:PORT (of process 0)"


def check_processes(
    distributed: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Refuse flags of several processes that contradict each other; the arguments are those flags.

    Raises:
      UserError: one is missing, would be ignored, or cannot be; says which.
    """
    for name, value in (("num_processes", num_processes), ("process_id", process_id)):
        if value is not None and not (distributed or coordinator):
            raise UserError(
                f"--{name}={value} alone starts one process; add {_FIRST}, or --distributed where "
                "JAX finds the others itself."
            )
    if coordinator is not None:
        address = _ADDRESS.fullmatch(coordinator)
        if address is None or not 0 < int(address[2]) < 2**16:
            raise UserError(
                f"--coordinator={coordinator}: expected HOST:PORT of process 0, e.g. "
                "--coordinator=10.0.0.1:1234."
            )
    if num_processes is not None and process_id is not None and process_id >= num_processes:
        raise UserError(
            f"--process_id={process_id} with --num_processes={num_processes}: processes are "
            f"numbered from 0 to {num_processes - 1}."
        )


def start_processes(
    distributed: bool, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Join the other processes, if the flags ask for it; the arguments are those flags.

    Raises:
      UserError: JAX does not find the other processes, or the flags do not tell it enough.
    """
    if not (distributed or coordinator):
        return
    if coordinator is not None and process_id is not None:
        _check_port(coordinator) if process_id == 0 else _wait_for(coordinator)
    # Imported here: a mistyped flag should not cost the import of JAX.
    import jax

    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except ValueError as error:  # of the arguments, and of what the environment lacks
        given = {"--num_processes=N": num_processes, "--process_id=I": process_id}
        lacking = [name for name, value in {_FIRST: coordinator, **given}.items() if value is None]
        if not lacking:
            raise
        asked = "--distributed" if coordinator is None else f"--coordinator={coordinator}"
        raise UserError(
            f"{asked}: JAX finds no TPU pod, Slurm or Open MPI job here that tells it the other "
            f"processes; add {' and '.join(lacking)}, or run one process without these flags."
        ) from error


def _check_port(coordinator: str) -> None:
    """Raise UserError where process 0 cannot listen, since another program does."""
    with socket.socket() as ear:
        if os.name == "posix":  # a port that was just given up is free; elsewhere it means more
            ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            ear.bind(("", int(coordinator.rpartition(":")[2])))
        except OSError as error:
            raise UserError(
                f"--coordinator={coordinator}: process 0 cannot use this port ({error.strerror}); "
                "choose another one for all processes."
            ) from error


def _wait_for(coordinator: str) -> None:
    """Wait until process 0 answers.  JAX would wait as long, then abort with a dump of its threads.

    Raises:
      UserError: the host is unknown, or nothing answers.
    """
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except socket.gaierror as error:
            raise UserError(
                f"--coordinator={coordinator}: no host is called {host!r} ({error.strerror})."
            ) from error
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"--coordinator={coordinator}: nothing answers there ({error.strerror or error}"
                    "); start process 0 on that host, with the same port."
                ) from error
        time.sleep(0.2)


def check_devices() -> None:
    """Start JAX's devices, if the environment chooses them, which can go wrong.

    Raises:
      UserError: `JAX_PLATFORMS` names what this machine or this JAX lacks.
    """
    wanted = os.environ.get("JAX_PLATFORMS", "")
    if not wanted:
        return
    import jax

    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts where it skipped all platforms
        why = " ".join(str(error).split()) or "this JAX has no such device, or was built without it"
        raise UserError(
            f"JAX_PLATFORMS={wanted} cannot be used: {why}. Unset it, or set JAX_PLATFORMS=cpu; "
            "GPUs need pip install 'jax[cuda13]'."
        ) from error
