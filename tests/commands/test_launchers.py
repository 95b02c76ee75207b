"""What has started several processes is recognised by its environment, and by nothing less."""

import sys

import jax
import pytest

from tpgdiff_jax.commands import launchers, processes
from tpgdiff_jax.commands.launchers import recognised
from tpgdiff_jax.commands.processes import Joining, check_processes, join_processes
from tpgdiff_jax.reporting.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI_5 = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}
OPEN_MPI_4 = OPEN_MPI_5 | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:9"}
MPICH = {"PMI_SIZE": "2", "PMI_RANK": "1"}
GKE = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}
GKE_SLICES = GKE | {"MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2"}


@pytest.fixture(autouse=True)
def _no_tpu(monkeypatch):
    monkeypatch.setattr(launchers, "_has_chips", lambda: False)
    monkeypatch.setattr(launchers, "_has_libtpu", lambda: False)


@pytest.mark.parametrize(
    ("environment", "name", "place", "names_first"),
    [
        (SLURM, "Slurm", (3, 4), True),
        (OPEN_MPI_4, "Open MPI", (2, 4), True),
        (OPEN_MPI_5, "Open MPI", (2, 4), False),
        (SLURM | OPEN_MPI_4, "Open MPI", (2, 4), True),
        (MPICH, "MPICH or Intel MPI", (1, 2), False),
        (GKE, "TPUs on GKE", (1, 2), True),
        (GKE_SLICES, "TPUs on GKE", (5, 6), True),
    ],
)
def test_several_processes_are_recognised(environment, name, place, names_first):
    found = recognised(environment)
    assert found.name == name
    assert (found.index, found.count) == place
    assert found.names_first == names_first


def test_a_tpu_vm_is_recognised_by_its_chips(monkeypatch):
    monkeypatch.setattr(launchers, "_has_chips", lambda: True)
    assert recognised({}) is None  # no libtpu: JAX would not use them
    monkeypatch.setattr(launchers, "_has_libtpu", lambda: True)
    assert recognised({}).name == "TPU VM"
    assert recognised({"JAX_PLATFORMS": "cpu"}) is None
    assert recognised({"TPU_SKIP_MDS_QUERY": "1"}) is None


@pytest.mark.parametrize(
    "environment",
    [
        {},
        # A batch script, which runs once before `srun` starts the tasks.
        {name: value for name, value in SLURM.items() if "STEP" not in name},
        SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        {"PMI_RANK": "0"},
        {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
        GKE | {"JAX_PLATFORMS": "cpu"},
    ],
)
def test_one_process_alone_joins_nobody(environment):
    assert recognised(environment) is None


@pytest.fixture
def joined(monkeypatch):
    """`joined(environment, **flags)` -> what JAX would be asked to join, None where it is not."""

    def run(environment, **flags):
        asked = []
        monkeypatch.setattr(processes.os, "environ", environment)
        monkeypatch.setattr(processes, "_wait_for", lambda _: None)
        monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: asked.append(given))
        wanted = Joining(**flags)
        check_processes(wanted)
        join_processes(wanted)
        return asked[0] if asked else None

    return run


def test_auto_joins_where_several_were_started(joined):
    assert joined(SLURM) == (None, 4, 3)
    assert joined({}) is None
    assert joined(SLURM, distributed="off") is None
    assert joined(SLURM, share=(0, 4)) is None
    assert joined(OPEN_MPI_5, coordinator="host:1") == ("host:1", 4, 2)
    assert joined(SLURM, coordinator="host:1", num_processes=2, process_id=1) == ("host:1", 2, 1)


@pytest.mark.parametrize(
    ("environment", "flags", "words"),
    [
        (OPEN_MPI_5, {}, ["Open MPI: 2 of 4", "--coordinator=HOST:PORT", "--distributed=off"]),
        (MPICH, {}, ["MPICH or Intel MPI: 1 of 2", "--coordinator=HOST:PORT"]),
        (GKE, {}, ["TPUs on GKE: 1 of 2", "libtpu", "pip install 'jax[tpu]'"]),
        ({}, {"share": (0, 2), "distributed": "on"}, ["--share=0/2", "leave out --distributed=on"]),
        ({}, {"share": (0, 2), "coordinator": "h:1"}, ["--share=0/2", "--coordinator=h:1"]),
    ],
)
def test_several_processes_are_never_silent_copies(joined, environment, flags, words):
    with pytest.raises(UserError) as refused:
        joined(environment, **flags)
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_what_jax_reports_is_one_sentence(joined, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Getting metadata failed for 6 tries")

    monkeypatch.setattr(launchers, "_has_chips", lambda: True)
    monkeypatch.setattr(launchers, "_has_libtpu", lambda: True)
    joined({})
    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(UserError, match=r"TPU VM: the other processes cannot.*metadata failed"):
        join_processes(Joining())


INCOMPLETE = """
import sys
from tpgdiff_jax.commands import processes
processes._PATIENCE = 2
processes.join_processes(processes.Joining("auto", sys.argv[1], 2, 0))
"""


def test_processes_that_stay_incomplete_end_with_a_sentence(free_address, start_python):
    process = start_python(INCOMPLETE, free_address)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    *_, last = said.splitlines()
    assert "process 0 of 2 has waited 2 s and the processes are not complete" in last
    assert sys.executable not in last
