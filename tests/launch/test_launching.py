"""Scripts that start processes: what they print in a dry run, and what they do with stand-ins."""

import os
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
EXPECTED = pathlib.Path(__file__).parent / "expected"
SCRIPTS = ("local.sh", "slurm.sbatch", "tpu_pod.sh", "env/gpu.sh", "env/tpu.sh")
POD = ["--name=mine", "--zone=europe-west4-b", "--type=v5litepod-16", "--spot"]
FLAGS = ["--config=configs/tpgdiff_5d.py", "--workdir=/mnt/runs/5d"]
SOURCES = "--config.data.train_sources=('pairs:/mnt/five',)"


def fake(folder, name, body):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def bash(script, *arguments, **environment):
    return subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script):
    words = ["shellcheck", "--external-sources", f"launch/{script}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# -- TPU slices ---------------------------------------------------------------------------------


def test_a_dry_run_prints_every_command(tmp_path):
    fake(tmp_path, "gcloud", "echo a dry run must not start gcloud >&2; exit 9")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = bash("tpu_pod.sh", *POD, "--delete", "--dry-run", "--", *FLAGS, SOURCES, PATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (EXPECTED / "tpu_pod.txt").read_text()


def test_what_hosts_run_is_shell_that_keeps_the_flags(tmp_path):
    line = next(li for li in (EXPECTED / "tpu_pod.txt").read_text().splitlines() if "nohup" in li)
    (command,) = (w for w in shlex.split(line) if w.startswith("--command="))
    home = tmp_path / "home"
    (home / "tpgdiff_jax" / "launch" / "env").mkdir(parents=True)
    shutil.copy(LAUNCH / "env" / "tpu.sh", home / "tpgdiff_jax" / "launch" / "env")
    fake(home / "tpgdiff_jax", ".venv/bin/python", "printf '%s\\n' \"$@\"; exit 3")
    code = command.removeprefix("--command=") + "; while [ ! -s ../code ]; do sleep 0.1; done"
    subprocess.run(["bash", "-c", code], cwd=home, check=True, timeout=30)
    assert (home / "log").read_text().splitlines() == [
        *("-u", "-m", "tpgdiff_jax.main", *FLAGS, SOURCES)
    ]
    assert (home / "code").read_text() == "3\n"


# A slice that is absent, then taken away while the program runs, then there until it is done.
GCLOUD = """
echo "$*" >> "$0.calls"
case "$*" in
    *describe*)
        [ -f "$0.made" ] || { echo "not found" >&2; exit 1; }
        looks=$(( $(cat "$0.looks" 2>/dev/null || echo 0) + 1 )); echo $looks > "$0.looks"
        if [ "$looks" = 3 ]; then echo SUSPENDED; rm "$0.looks"; touch "$0.lost"
        elif [ -f "$0.lost" ]; then echo SUSPENDED
        else echo ACTIVE; fi ;;
    *create*) touch "$0.made" ;;
    *delete*) rm -f "$0.made" "$0.lost" "$0.looks" ;;
    *"cat code"*) if [ -f "$0.again" ]; then echo CODE; else touch "$0.again"; echo works; fi ;;
    *"cat log"*) for w in $*; do case $w in --output-directory=*)
        echo fine > "${w#*=}/0.log" ;; esac; done ;;
esac
"""


def pod(tmp_path, code, *more):
    gcloud = fake(tmp_path, "gcloud", GCLOUD.replace("CODE", str(code)))
    fake(tmp_path, "git", "exit 0")  # would archive the clone
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TPGDIFF_PAUSE": "0"}
    logs = tmp_path / "logs"
    done = bash("tpu_pod.sh", *POD, f"--logs={logs}", *more, "--", *FLAGS, **environment)
    calls = (gcloud.parent / "gcloud.calls").read_text()
    return done, calls


def test_a_slice_that_is_taken_away_is_made_again_until_the_run_is_done(tmp_path):
    done, calls = pod(tmp_path, 0, "--delete")
    assert done.returncode == 0, done.stderr
    assert "ended with 'the slice taken away'" in done.stderr
    verbs = re.findall(r"queued-resources (create|delete)", calls)
    assert verbs == ["create", "delete", "create", "delete"]
    assert (tmp_path / "logs" / "0.log").read_text() == "fine\n"


def test_a_dry_run_tells_of_no_costs(tmp_path):
    done = bash("tpu_pod.sh", *POD, f"--logs={tmp_path}", "--dry-run", "--", *FLAGS)
    assert done.returncode == 0, done.stderr
    assert "costs" not in done.stderr


def test_a_mistake_is_not_tried_again(tmp_path):
    done, calls = pod(tmp_path, 2)
    assert done.returncode == 1
    assert "the program was refused; see" in done.stderr
    assert calls.count("nohup") <= 2
    assert "goes on, and costs, until you delete it" in done.stderr


def test_a_slice_is_deleted_after_a_mistake_too_where_that_was_asked_for(tmp_path):
    done, calls = pod(tmp_path, 2, "--delete")
    assert done.returncode == 1
    assert re.findall(r"queued-resources (create|delete)", calls)[-1] == "delete"
    assert "costs" not in done.stderr


def test_tries_are_limited(tmp_path):
    done, calls = pod(tmp_path, 1, "--tries=2")
    assert done.returncode == 1
    assert "not done after 2 tries" in done.stderr
    assert calls.count("nohup") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name=a", "--zone=b", "--", "--x"], "--name, --zone and --type are needed."),
        ([*POD], "no flags of the program"),
        ([*POD, "--workdir=x"], "--workdir=x is no flag of this script"),
        ([*POD, "--tries=x", "--", "--x"], "--tries=x: expected a whole number."),
    ],
)
def test_mistakes_are_one_sentence(arguments, words):
    done = bash("tpu_pod.sh", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


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
