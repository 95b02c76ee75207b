"""Which way is chosen, what is compiled and kept, and what happens where oneDNN cannot be had."""

import os
import pathlib
import subprocess
import sys

import pytest

from tpgdiff_jax.native import build, choice, library
from tpgdiff_jax.native.build import MissingError

# What a new process does: choose a way, convolve, tell what was logged.
PROGRAM = """
import sys
from absl import logging
logging.set_verbosity(logging.INFO)
import jax.numpy as jnp
from tpgdiff_jax import native
from tpgdiff_jax.backbones.convolution import convolve
try:
    native.choose(sys.argv[1])
except ValueError as error:
    sys.exit(f"refused: {error}")
print(float(convolve(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, 1, 1, 0]))
"""


@pytest.fixture
def onednn():
    """The oneDNN of this environment; skips where the path cannot run at all."""
    try:
        library._processor_flags()
        return build.find_onednn()
    except MissingError as error:
        pytest.skip(str(error))


def start(way: str = "auto", **environment: object) -> subprocess.Popen:
    unset = ("TPGDIFF_CONVOLUTIONS", "CXX", "XLA_FLAGS")
    plain = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, way],
        env=plain | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def compiled(folder: pathlib.Path) -> list[pathlib.Path]:
    return list((folder / "tpgdiff_jax" / "native").glob("*"))


def test_two_processes_may_compile_at_once(onednn, tmp_path):
    results = [finish(p) for p in [start(XDG_CACHE_HOME=tmp_path) for _ in range(2)]]
    for code, out, error in results:
        assert (code, out) == (0, "9.0\n")
        assert error.count("Convolutions on the CPU: oneDNN 3.") == 1
    (file,) = compiled(tmp_path)
    assert build.is_whole(file)
    assert f"onednn-{onednn.version}" in file.name


@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty"])
def test_a_damaged_library_is_made_anew(onednn, monkeypatch, tmp_path, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = []
    monkeypatch.setattr(build, "compile_library", lambda _, path: made.append(path))
    monkeypatch.setattr(library, "Library", lambda *_: "loaded")
    path = build.library_path(onednn)
    path.parent.mkdir(parents=True)
    whole = b"code" * 1000
    data = {"truncated": whole[:99], "overwritten": whole, "empty": b""}[damage]
    path.write_bytes(data)
    assert library.load() == "loaded"
    assert made == [path]


def test_a_library_that_cannot_be_loaded_is_a_reason(onednn, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "compile_library", lambda _, path: None)
    with pytest.raises(MissingError, match="cannot be loaded"):
        library.load()


def test_a_cache_that_cannot_be_written_leaves_the_work_to_xla(onednn, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code, out, error = finish(start(XDG_CACHE_HOME=blocked))
    assert (code, out) == (0, "9.0\n")
    lines = [line for line in error.splitlines() if "Convolutions on the CPU" in line]
    assert len(lines) == 1
    assert "XLA" in lines[0]
    assert "cannot be written" in lines[0]


def test_onednn_is_refused_where_it_cannot_run(onednn, tmp_path):
    code, _, error = finish(start("onednn", XDG_CACHE_HOME=tmp_path, CXX="no-such-compiler"))
    assert code == 1
    assert "refused: model.convolutions=onednn cannot run here" in error
    assert "no-such-compiler" in error


@pytest.mark.parametrize("given", [None, "active"])
def test_openmps_threads_sleep_while_they_wait_unless_told(monkeypatch, given):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if given is None:
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    else:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    with library._patient_threads():
        assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")
    assert os.environ.get("OMP_WAIT_POLICY") == given


def test_the_environment_goes_before_the_configuration(tmp_path):
    environment = {"XDG_CACHE_HOME": tmp_path, "TPGDIFF_CONVOLUTIONS": "xla"}
    code, out, error = finish(start("onednn", **environment))
    assert (code, out) == (0, "9.0\n")
    assert "Convolutions on the CPU: XLA, as chosen" in error
    assert compiled(tmp_path) == []


def test_unknown_ways_are_refused_by_name(monkeypatch):
    with pytest.raises(ValueError, match=r"model\.convolutions='fast' is unknown"):
        choice.choose("fast")
    monkeypatch.setenv("TPGDIFF_CONVOLUTIONS", "fast")
    with pytest.raises(ValueError, match="TPGDIFF_CONVOLUTIONS='fast' is unknown"):
        choice.choose("auto")


@pytest.mark.parametrize(
    ("module", "name", "value", "reason"),
    [
        (library.platform, "machine", lambda: "aarch64", "x86-64"),
        (library.sys, "platform", "darwin", "Linux"),
        (library.sys, "platform", "win32", "Linux"),
        (library, "_CPUINFO", pathlib.Path("/does/not/exist"), "AVX-512"),
        (build, "_folders", lambda kind: [], r"pip install 'tpgdiff_jax\[cpu\]'"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, module, name, value, reason):
    if module is build:
        monkeypatch.setattr(library, "_processor_flags", set)
    monkeypatch.setattr(module, name, value)
    with pytest.raises(MissingError, match=reason):
        library.load()


def test_no_compiler_is_named(onednn, monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(MissingError, match=r"no C\+\+ compiler"):
        build.compile_library(onednn, tmp_path / "calls.so")


def test_a_failing_compiler_is_quoted(onednn, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "_FLAGS", ("-DXLA_FFI_DEFINE_HANDLER_SYMBOL=error",))
    with pytest.raises(MissingError, match=r"failed: .*error"):
        build.compile_library(onednn, tmp_path / "calls.so")
    assert list(tmp_path.iterdir()) == []


def test_onednn_is_found_where_its_package_lies_not_beside_the_interpreter_alone(
    onednn, monkeypatch, tmp_path
):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    found = build.find_onednn()
    assert found.version == onednn.version
    assert found.library.samefile(onednn.library)
