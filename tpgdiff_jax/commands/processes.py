"""Start-up of one process or several, and of its devices: each mistake is one sentence."""

import dataclasses
import os
import re
import socket
import sys
import threading
import time

from absl.flags import FlagValues

from tpgdiff_jax.commands import mode_flags
from tpgdiff_jax.commands.launchers import Launcher, recognised, tried
from tpgdiff_jax.reporting.errors import UserError, one_line
from tpgdiff_jax.reporting.leaving import leave_now

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):(\d{1,5})")
_PATIENCE = 300  # seconds, as JAX has
_FIRST = "--coordinator=HOST:PORT (of process 0)"


@dataclasses.dataclass(frozen=True)
class Joining:
    """What was typed of other processes; the fields are the flags, and what the program does."""

    distributed: str = "auto"
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    share: tuple[int, int] | None = None
    trains: bool = True
    restores: bool = False

    def launcher(self) -> Launcher | None:
        """Return what has started this process beside others; None where none is wanted."""
        return None if self.distributed == "off" or self.share else recognised(os.environ)


def joining(values: FlagValues) -> Joining:
    """Return what was typed of other processes; modes that are one process join nobody."""
    program = mode_flags.chosen_program(values)
    about = mode_flags.MODES[program]
    if "distributed" not in about.reads:
        return Joining("off")
    typed = (values[name].value for name in mode_flags.PROCESSES)
    does = {"trains": program == "train", "restores": program == "restore"}
    return Joining(*typed, share=values.share, **does)


def check_processes(wanted: Joining) -> None:
    """Refuse flags of several processes that contradict each other.

    Raises:
      UserError: one is missing, would be ignored, or cannot be; says which.
    """
    typed = {name: getattr(wanted, name) for name in ("coordinator", "num_processes", "process_id")}
    named = [f"--{name}={value}" for name, value in typed.items() if value is not None]
    if wanted.share and (named or wanted.distributed == "on"):
        raise UserError(
            f"--share={wanted.share[0]}/{wanted.share[1]} is done by a process that is alone; "
            f"leave out {named[0] if named else '--distributed=on'}."
        )
    if wanted.distributed == "off" and named:
        raise UserError(
            f"--distributed=off runs one process, and {named[0]} tells of others; leave one out."
        )
    joins = wanted.distributed == "on" or wanted.coordinator or wanted.launcher()
    if named and not joins:
        raise UserError(
            f"{named[0]} alone starts one process; add {_FIRST}, or --distributed=on where JAX "
            "finds the others itself."
        )
    if wanted.coordinator is not None:
        address = _ADDRESS.fullmatch(wanted.coordinator)
        if address is None or not 0 < int(address[2]) < 2**16:
            raise UserError(
                f"--coordinator={wanted.coordinator}: expected HOST:PORT of process 0, e.g. "
                "--coordinator=10.0.0.1:1234."
            )
    count, index = wanted.num_processes, wanted.process_id
    if count is not None and index is not None and index >= count:
        raise UserError(
            f"--process_id={index} with --num_processes={count}: processes are numbered from 0 to "
            f"{count - 1}."
        )


def join_processes(wanted: Joining) -> None:
    """Join the other processes of this job, if flags or environment tell of any.

    Args:
      wanted: the flags, checked.

    Raises:
      UserError: they are not found, or not all that is needed to find them is known; says what
        was tried.
    """
    launcher = wanted.launcher()
    if launcher is None and wanted.distributed != "on" and wanted.coordinator is None:
        return
    wanted = _completed(wanted, launcher)
    if wanted.coordinator is not None and wanted.process_id is not None:
        if wanted.process_id == 0:
            _check_port(wanted.coordinator)
        else:
            _wait_for(wanted.coordinator)
    _initialize(wanted, _asked(wanted, launcher))


def _completed(wanted: Joining, launcher: Launcher | None) -> Joining:
    """Fill in what the launcher tells and nobody typed.

    Raises:
      UserError: the launcher does not tell where process 0 is, or a package is missing.
    """
    if launcher is None:
        return wanted
    if launcher.lacks:
        raise UserError(f"{launcher}: joining the others needs {launcher.lacks}.")
    if not launcher.names_first and wanted.coordinator is None:
        raise UserError(
            f"This is one of several processes ({launcher}), but JAX cannot learn from it where "
            f"process 0 is; add {_FIRST}, or --distributed=off if each shall run by itself."
        )
    if wanted.num_processes is None and wanted.process_id is None:
        return dataclasses.replace(wanted, num_processes=launcher.count, process_id=launcher.index)
    return wanted


def _asked(wanted: Joining, launcher: Launcher | None) -> str:
    if wanted.coordinator is not None:
        return f"--coordinator={wanted.coordinator}"
    return "--distributed=on" if launcher is None else str(launcher)


def _initialize(wanted: Joining, asked: str) -> None:
    # Imported here: a mistyped flag should not cost the import of JAX.
    import jax

    given = (wanted.coordinator, wanted.num_processes, wanted.process_id)
    if not wanted.trains:  # nothing would ask whether SIGTERM came: it shall end the process
        jax.config.update("jax_enable_preemption_service", False)
    if wanted.restores:  # each by itself: CPU devices of a process meet without asking process 0
        jax.config.update("jax_cpu_collectives_implementation", None)
    patience = threading.Timer(_PATIENCE, _give_up, [wanted, asked])
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(*given, initialization_timeout=_PATIENCE + 60)
    except ValueError as error:  # of the arguments, and of what the environment lacks
        names = (_FIRST, "--num_processes=N", "--process_id=I")
        lacking = [name for name, value in zip(names, given, strict=True) if value is None]
        if not lacking:
            raise
        raise UserError(
            f"{asked}: JAX finds no TPU pod, Slurm or Open MPI job here that tells it the other "
            f"processes; add {' and '.join(lacking)}, or run one process with --distributed=off. "
            f"Tried: {tried(os.environ)}."
        ) from error
    except (RuntimeError, OSError) as error:  # of the service, of metadata, of names of hosts
        raise UserError(
            f"{asked}: the other processes cannot be joined: {one_line(error)}"
        ) from error
    finally:
        patience.cancel()


def _give_up(wanted: Joining, asked: str) -> None:
    """End the process: JAX would abort with a dump of its threads."""
    known = wanted.num_processes is not None
    which = f"process {wanted.process_id} of {wanted.num_processes}" if known else "this process"
    text = (
        f"error: {asked}: {which} has waited {_PATIENCE} s and the processes are not complete; "
        "start all of them, with the same address and number of processes."
    )
    print(text, file=sys.stderr, flush=True)
    leave_now(2)


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
