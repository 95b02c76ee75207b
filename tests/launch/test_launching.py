"""What starts processes: shell that is clean, manifests that fit, settings and images."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tpgdiff_jax.commands.ending import stopped_exit_code

ROOT = pathlib.Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_pod.sh", "env/gpu.sh", "env/tpu.sh")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    words = ["shellcheck", "--external-sources", f"launch/{script}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# -- Slurm: `test_slurm.py` submits real jobs where it runs -------------------------------------


@pytest.mark.parametrize(
    ("code", "is_asked", "queues"),
    [(0, True, True), (143, True, True), (1, True, False), (143, False, False), (0, False, False)],
)
def test_a_slurm_job_is_queued_again_where_term_ended_it(tmp_path, code, is_asked, queues):
    """Also where that came before its tasks trained, which ends them by the signal (128 + 15)."""
    wait = f"for _ in {{1..500}}; do [ -e {tmp_path}/asked ] && break; sleep 0.02; done;"
    tools = {
        "srun": f"touch {tmp_path}/runs; {wait if is_asked else ''} exit {code}",
        "scancel": f"touch {tmp_path}/asked; sleep 0.2",  # srun ends before it
        "scontrol": f'echo "$*" >> {tmp_path}/told; echo "JobId=7 JobState=RUNNING"',
        "python": "exit 0",
    }
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name, body in tools.items():
        tool = tmp_path / ("venv/bin/python" if name == "python" else name)
        tool.write_text(f"#!/bin/bash\n{body}\n")
        tool.chmod(0o755)
    about = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}
    about |= {"SLURM_JOB_NODELIST": "a", "TPGDIFF_VENV": str(tmp_path / "venv")}
    job = subprocess.Popen(
        ["bash", LAUNCH / "slurm.sbatch", "--config=a.py"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "JAX_PLATFORMS": "cpu"} | about,
        stdout=subprocess.PIPE,
        text=True,
    )
    while is_asked and not (tmp_path / "runs").exists():
        assert job.poll() is None
        time.sleep(0.01)
    if is_asked:
        job.send_signal(signal.SIGTERM)
    said, _ = job.communicate(timeout=20)
    assert ("Queued again" in said) == queues
    assert ("requeue 7" in (tmp_path / "told").read_text()) == queues
    assert job.returncode == (0 if queues else code)


# -- GKE ----------------------------------------------------------------------------------------


def manifest():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def test_the_manifest_fits_the_schema_of_jobsets():
    models = pytest.importorskip(
        "kubeflow_trainer_api.models", reason="kubeflow-trainer-api is not installed"
    )
    found = models.JobsetV1alpha2JobSet.from_dict(manifest())
    # What a schema does not know is dropped by its model: nothing must be missing.
    assert found.to_dict() == manifest()


def test_the_jobs_of_the_manifest_fit_the_schema_of_kubernetes():
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    for replicated in manifest()["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}}
        job["spec"] = replicated["template"]["spec"]
        validate.validate(job, "1.36", strict=True)
        job["spec"]["paralelism"] = 1
        with pytest.raises(validate.ValidationError):
            validate.validate(job, "1.36", strict=True)


def test_the_manifest_starts_the_program():
    (job,) = manifest()["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][-2:] == ["-m", "tpgdiff_jax.main"]
    words = [sys.executable, "-m", "tpgdiff_jax.main", *container["args"], "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_hosts_of_the_manifest_that_are_stopped_count_as_failed(monkeypatch):
    (job,) = manifest()["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    assert stopped_exit_code() != 0
    # And not towards `maxRestarts`.
    (rule, _) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [stopped_exit_code()]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    (rule,) = manifest()["spec"]["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]


# -- Settings and images ------------------------------------------------------------------------


def settings(script, **environment):
    code = f"source {LAUNCH / 'env' / script}; env"
    done = subprocess.run(
        ["/bin/bash", "-euc", code],
        env={"PATH": "/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.partition("=")[::2] for line in done.stdout.splitlines())


def test_what_is_set_already_stays():
    assert "latency_hiding_scheduler=true" in settings("gpu.sh")["XLA_FLAGS"]
    mine = "--xla_gpu_enable_latency_hiding_scheduler=false"
    found = settings("gpu.sh", XLA_FLAGS=mine, XLA_PYTHON_CLIENT_MEM_FRACTION="0.5")
    assert found["XLA_FLAGS"] == mine
    assert found["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    found = settings("gpu.sh", XLA_CLIENT_MEM_FRACTION="0.5")  # JAX's other name for it
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in found
    mine = "--xla_enable_async_all_gather=false"
    found = settings("tpu.sh", LIBTPU_INIT_ARGS=mine)["LIBTPU_INIT_ARGS"]
    assert found.count("async_all_gather") == 1
    assert found.startswith(mine)


def test_the_image_for_tpus_has_the_same_flags():
    text = (LAUNCH / "container" / "tpu.Dockerfile").read_text()
    (flags,) = re.findall(r'LIBTPU_INIT_ARGS="(.*)"', text)
    assert flags == settings("tpu.sh")["LIBTPU_INIT_ARGS"]


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_images_differ_in_their_jax_and_start_the_program(kind):
    text = (LAUNCH / "container" / f"{kind}.Dockerfile").read_text()
    assert f"--file launch/container/{kind}.Dockerfile --tag tpgdiff-{kind} ." in text
    assert ("jax[tpu]" in text) == (kind == "tpu")
    assert 'ENTRYPOINT ["python", "-m", "tpgdiff_jax.main"]' in text


COMPILE = """
import os
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu", "TPU_WORKER_ID": "0"}
os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost"}
import libtpu
os.environ["TPU_LIBRARY_PATH"] = libtpu.get_library_path()
import jax
from jax.experimental import topologies
topology = topologies.get_topology_desc("v5e:2x4", "tpu")
where = jax.sharding.SingleDeviceSharding(topology.devices[0])
shape = jax.ShapeDtypeStruct((128, 128), "float32", sharding=where)
jax.jit(lambda x: x @ x).lower(shape).compile()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("more", "code"), [("", 0), (" --xla_no_such_flag=true", 1)])
def test_libtpu_knows_the_flags(more, code):
    pytest.importorskip("libtpu", reason="libtpu is not installed")
    flags = settings("tpu.sh")["LIBTPU_INIT_ARGS"] + more
    words = [sys.executable, "-c", COMPILE]
    done = subprocess.run(
        words, env=os.environ | {"LIBTPU_INIT_ARGS": flags}, capture_output=True, check=False
    )
    assert bool(done.returncode) == bool(code), done.stderr
