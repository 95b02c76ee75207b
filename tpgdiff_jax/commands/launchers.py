"""What has started this process beside others of one job, told by its environment; needs no JAX."""

import dataclasses
import glob
import importlib.util
from collections.abc import Mapping

# Variables of which all must be set, and those of the count and the number of this process.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
_OPEN_MPI_HOST = "OMPI_MCA_orte_hnp_uri"  # where JAX reads process 0's host; since Open MPI 5 unset
_MPICH = ("PMI_SIZE", "PMI_RANK")
_GKE_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
_TPU_CHIPS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")


@dataclasses.dataclass(frozen=True)
class Launcher:
    """Who has started this process beside others.

    Attributes:
      name: what it is called.
      count: how many processes it has started; None where only JAX can ask.
      index: number of this one; None likewise.
      names_first: whether JAX finds process 0 by it.
      lacks: a package that joining needs and that is not installed, with how to install it.
    """

    name: str
    count: int | None
    index: int | None
    names_first: bool = True
    lacks: str = ""

    def __str__(self) -> str:
        """Say who, and which process this one is."""
        return self.name if self.count is None else f"{self.name}: {self.index} of {self.count}"


def recognised(environment: Mapping[str, str]) -> Launcher | None:
    """Return what has started several processes, or None where this one is alone.

    Args:
      environment: `os.environ`.
    """
    for find in (_gke, _open_mpi, _slurm, _mpich, _tpu_vm):  # mpirun may stand in a Slurm job
        launcher = find(environment)
        if launcher is not None and launcher.count != 1:
            return launcher
    return None


def tried(environment: Mapping[str, str]) -> str:
    """Say of every launcher that is known what of it was found."""
    wants = {
        "Slurm": _SLURM,
        "Open MPI": (*_OPEN_MPI, _OPEN_MPI_HOST),
        "MPICH or Intel MPI": _MPICH,
    }
    found = [f"{name}: {_present(names, environment)}" for name, names in wants.items()]
    hosts = " or ".join(_GKE_HOSTS)
    found.append(f"TPUs on GKE: {hosts} {'set' if _hosts(environment) else 'not set'}")
    chips = "" if _has_chips() else "no "
    libtpu = "" if _has_libtpu() else "not "
    found.append(f"TPU VM: {chips}TPU chips, libtpu {libtpu}installed")
    return "; ".join(found)


def _present(names: tuple[str, ...], environment: Mapping[str, str]) -> str:
    missing = [name for name in names if name not in environment]
    return f"{', '.join(missing)} not set" if missing else "all variables set"


def _slurm(environment: Mapping[str, str]) -> Launcher | None:
    # Without SLURM_STEP_NODELIST this is the batch script itself, which runs once.
    if not all(name in environment for name in _SLURM):
        return None
    count = environment.get("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"])
    return Launcher("Slurm", int(count), int(environment["SLURM_PROCID"]))


def _open_mpi(environment: Mapping[str, str]) -> Launcher | None:
    if not all(name in environment for name in _OPEN_MPI):
        return None
    count, index = (int(environment[name]) for name in _OPEN_MPI)
    return Launcher("Open MPI", count, index, names_first=_OPEN_MPI_HOST in environment)


def _mpich(environment: Mapping[str, str]) -> Launcher | None:
    if not all(name in environment for name in _MPICH):
        return None
    count, index = (int(environment[name]) for name in _MPICH)
    return Launcher("MPICH or Intel MPI", count, index, names_first=False)


def _gke(environment: Mapping[str, str]) -> Launcher | None:
    hosts = _hosts(environment)
    if not hosts or not _may_use_tpus(environment):
        return None
    slices = int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    place = int(environment.get("MEGASCALE_SLICE_ID") or 0)
    index = place * len(hosts) + int(environment.get("TPU_WORKER_ID") or 0)
    lacks = "" if _has_libtpu() else "libtpu (pip install 'jax[tpu]')"
    return Launcher("TPUs on GKE", len(hosts) * slices, index, lacks=lacks)


def _tpu_vm(environment: Mapping[str, str]) -> Launcher | None:
    # Of how many hosts the slice is, only the machine's metadata server tells; JAX asks it.
    if "TPU_SKIP_MDS_QUERY" in environment or not _may_use_tpus(environment):
        return None
    return Launcher("TPU VM", None, None) if _has_chips() and _has_libtpu() else None


def _hosts(environment: Mapping[str, str]) -> list[str]:
    text = next((environment[name] for name in _GKE_HOSTS if environment.get(name)), "")
    return text.split(",") if text else []


def _may_use_tpus(environment: Mapping[str, str]) -> bool:
    platforms = environment.get("JAX_PLATFORMS", "")
    return not platforms or "tpu" in platforms


def _has_chips() -> bool:
    return any(glob.glob(pattern) for pattern in _TPU_CHIPS)


def _has_libtpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None
