"""Plans for GPUs: compiled where JAX's CUDA plugin is installed, else estimated, and said so."""

import importlib.util
import re

import jax
import pytest

from tpgdiff_jax.backbones import attention
from tpgdiff_jax.planning import gpu, plan
from tpgdiff_jax.planning.chips import CHIPS, find_topology

GPUS = [chip for chip in CHIPS if not chip.is_tpu]


# Of any program: what a roofline and an estimate read.
RECORD = {
    **{"what": "train", "chips": 8, "images": 8, "fits": True, "memory": 80e9, "mesh": {"data": 8}},
    **dict.fromkeys(("parameters", "parameter_bytes", "optimizer_bytes", "average_bytes"), 10**6),
    **dict.fromkeys(("argument_bytes", "temporary_bytes", "peak_bytes", "flops", "bytes"), 10**9),
    **{"messages": [], "movers": []},
}


@pytest.fixture
def plans(tiny_config, monkeypatch):
    """`plans(with_plugin, *meshes)` -> (topology, mesh) of all that h100:8 has compiled."""

    def run(with_plugin, *meshes):
        asked = []

        def compiled(config, topology, mesh, what):
            asked.append((topology.name, tuple(mesh.values())))
            return dict(RECORD)

        monkeypatch.setattr(plan, "compile_apart", compiled)
        monkeypatch.setattr(plan, "check_libtpu", lambda: asked.append("libtpu"))
        monkeypatch.setattr(plan.gpu, "has_gpu_compiler", lambda: with_plugin)
        tiny_config.data.batch_size = 8
        return list(plan.plan(tiny_config, ["h100:8"], ["train"], meshes)), asked

    return run


def test_with_the_plugin_every_mesh_is_compiled_and_no_libtpu_is_needed(plans):
    records, asked = plans(True, "8x1x1x1", "2x4x1x1")
    assert asked == [("h100:8", (8, 1, 1, 1)), ("h100:8", (2, 4, 1, 1))]
    assert not any("is_estimated" in each for each in records)


def test_without_it_one_row_is_estimated_and_the_remedy_is_named(plans, caplog):
    records, asked = plans(False, "8x1x1x1", "2x4x1x1")
    assert asked == ["libtpu", ("v5p:2x2x1", (1, 1, 1, 1))]
    assert [each["is_estimated"] for each in records] == [True]
    assert "pip install 'jax[cuda13]'" in caplog.text


@pytest.mark.parametrize("chip", GPUS, ids=[chip.kind for chip in GPUS])
def test_xla_is_told_of_every_gpu(chip, monkeypatch):
    monkeypatch.setattr(gpu, "_cuda", lambda: 13)
    text = gpu.target(find_topology(f"{chip.kind}:1"))
    assert f"core_count: {chip.gpu.cores}\n" in text
    assert f"device_memory_size: {chip.memory:.0f}\n" in text
    assert not re.search(r"None|[{}]{2}", text)
    assert text.count("{") == text.count("}")


def test_the_plugin_is_found_by_its_package(monkeypatch):
    installed = {"jax_cuda12_plugin"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
    assert gpu._cuda() == 12
    installed.clear()
    assert not gpu.has_gpu_compiler()


def test_a_gpu_that_is_only_compiled_for_counts_as_one_with_a_flash_kernel(monkeypatch):
    monkeypatch.setattr(attention, "_PLANNED", [])
    # cuDNN itself is asked for its version; here it may be missing.
    monkeypatch.setattr(attention, "_attend_by_cudnn", lambda q, k, v: q)
    monkeypatch.setattr(jax, "local_devices", _no_gpus)
    attention._gpus_have_flash.cache_clear()
    assert not attention._gpus_have_flash()
    attention.compile_for(9.0)
    assert attention._gpus_have_flash()
    attention.compile_for(7.5)  # Turing
    assert not attention._gpus_have_flash()


def _no_gpus(backend=None):
    raise RuntimeError(f"no {backend} here")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mesh", ["8x1x1x1", "2x4x1x1"])
def test_a_step_compiles_for_eight_gpus(tiny_config, mesh):
    if not gpu.has_gpu_compiler():
        pytest.skip("JAX's CUDA plugin is not installed (pip install 'jax[cuda13]')")
    with tiny_config.unlocked():
        tiny_config.data.batch_size = 8
        tiny_config.model.dtype = "bfloat16"
    found = plan.compile_apart(tiny_config, find_topology("h100:8"), plan.read_mesh(mesh), "train")
    assert found["fits"]
    assert min(found["flops"], found["bytes"], found["operations"]) > 0
    axes = {message["axis"] for message in found["messages"] if message["kind"] == "all-reduce"}
    assert axes & {"data", "data+fsdp"}
