"""Plans for GPUs: compiled where JAX's CUDA plugin is installed, else estimated, and said so."""

import importlib.util
import re

import jax
import pytest
from jax.experimental import topologies

from tpgdiff_jax.backbones import attention
from tpgdiff_jax.planning import arithmetic, gpu, plan, roofline
from tpgdiff_jax.planning.chips import CHIPS, find_topology
from tpgdiff_jax.reporting.errors import UserError

GPUS = [chip for chip in CHIPS if not chip.is_tpu]


# Of any program: what a roofline and an estimate read.
RECORD = {
    **{"what": "train", "chips": 8, "images": 8, "fits": True, "memory": 80e9, "mesh": {"data": 8}},
    **dict.fromkeys(("parameters", "parameter_bytes", "optimizer_bytes", "average_bytes"), 10**6),
    **dict.fromkeys(("argument_bytes", "temporary_bytes", "peak_bytes", "flops", "bytes"), 10**9),
    **{"messages": [], "movers": [], "flops_by_precision": {"bfloat16": 10**9}},
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
        monkeypatch.setattr(plan, "check_libtpu", lambda **_: asked.append("libtpu"))
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


@pytest.mark.parametrize(
    ("names", "share"),
    [
        ({}, 0.75),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, 0.5),
        ({"XLA_CLIENT_MEM_FRACTION": "0.9"}, 0.9),
    ],
)
def test_a_program_may_have_what_jax_takes_of_a_gpu(names, share, monkeypatch):
    _set_shares(monkeypatch, names)
    h100 = find_topology("h100:8")
    assert gpu.memory_of(h100) == share * h100.chip.memory
    assert gpu.memory_of(find_topology("v5e:4x4")) == 16 * 2**30


@pytest.mark.parametrize("name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_what_fits_if_jax_takes_more_is_not_compiled_again(name, plans, monkeypatch):
    _set_shares(monkeypatch, {name: "0.7"})
    memory = find_topology("h100:8").chip.memory
    monkeypatch.setitem(RECORD, "fits", False)
    monkeypatch.setitem(RECORD, "peak_bytes", 0.9 * memory)
    records, asked = plans(True, "8x1x1x1")
    assert len(asked) == 1
    assert [(each["fits"], each["change"]) for each in records] == [
        (False, ""),
        (True, f"{name}=0.92"),
    ]
    assert gpu.with_more_memory({"peak_bytes": 0.95 * memory}, find_topology("h100:8")) is None


def _set_shares(monkeypatch, names):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)


def test_float32_products_take_the_rates_of_their_precision():
    h100, rtx4090, v5e = (find_topology(n).chip for n in ("h100:1", "rtx4090:1", "v5e:4x4"))
    rates = [h100.peak(precision) / 1e12 for precision in arithmetic.PRECISIONS]
    assert rates == pytest.approx([989, 494.5, 66.9], rel=1e-3)
    assert rtx4090.peak("exact") / 1e12 == pytest.approx(82.5, rel=1e-2)
    assert {v5e.peak(precision) for precision in arithmetic.PRECISIONS} == {v5e.flops}
    mixed = RECORD | {"flops_by_precision": {"bfloat16": 989e12, "float32": 989e12}}
    assert roofline.roofline(mixed, find_topology("h100:1")).arithmetic == 3


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


def test_a_plugin_that_is_not_loaded_is_one_sentence(monkeypatch):
    def no_plugin(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", no_plugin)
    with pytest.raises(UserError, match=r"not loaded.*pip install -U 'jax\[cuda13\]'"):
        gpu.compile_only_devices(find_topology("h100:8"))


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


@pytest.mark.parametrize("given", ["most", "-1", "nan"])
def test_a_share_of_memory_that_is_no_number_is_one_sentence(given, monkeypatch, tiny_config):
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", given)
    with pytest.raises(UserError, match=f"XLA_PYTHON_CLIENT_MEM_FRACTION={given}: expected"):
        next(plan.plan(tiny_config, ["h100:8"], ["train"], []))
