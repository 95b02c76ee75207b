"""The programs that are planned are those that run: traced for devices of this process."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tpgdiff_jax.distributed.sharding import make_mesh
from tpgdiff_jax.planning.chips import find_topology
from tpgdiff_jax.planning.compiling import measure
from tpgdiff_jax.planning.programs import trace
from tpgdiff_jax.reporting.errors import UserError


@pytest.fixture
def mesh():
    return make_mesh({"data": 4, "fsdp": 1, "tensor": 1, "spatial": 1}, jax.devices()[:4])


def test_a_training_step_is_traced_with_its_state(tiny_config, mesh):
    program = trace("train", tiny_config, mesh)
    assert program.images == tiny_config.data.batch_size
    assert program.parameter_bytes == 4 * program.parameters
    # AdamW keeps two moments, and counters.
    assert program.optimizer_bytes == pytest.approx(2 * program.parameter_bytes, abs=64)
    assert program.average_bytes == program.parameter_bytes


def test_a_compiled_program_is_measured(mesh):
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

    def step(kernel, x):
        return jax.grad(lambda kernel: (x @ kernel).sum())(kernel)

    operands = [
        jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=whole),
        jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=split),
    ]
    compiled = jax.jit(step, out_shardings=whole).lower(*operands).compile()
    v5e = find_topology("v5e:2x2")
    tiny = dataclasses.replace(v5e, chip=dataclasses.replace(v5e.chip, memory=16))
    found, other = (measure(compiled, list(mesh.shape.items()), each) for each in (v5e, tiny))
    assert (found["fits"], other["fits"]) == (True, False)
    assert found["argument_bytes"] == 4 * 2 * 16  # a chip's part of x; the gradient needs no more
    (message,) = found["messages"]
    assert (message["kind"], message["axis"], message["count"]) == ("all-reduce", "data", 1)
    assert sum(mover["bytes"] for mover in found["movers"]) == found["bytes"] > 0


@pytest.mark.parametrize("what", ["sample", "evaluate"])
def test_restoring_is_traced_with_whole_batches(tiny_config, mesh, what):
    tiny_config.eval.batch_size = 6
    program = trace(what, tiny_config, mesh)
    assert program.images == 8
    assert "while" in program.lowered.as_text()  # the sampler's steps


@pytest.mark.parametrize("what", ["sample", "evaluate"])
def test_further_passes_are_traced_as_they_run(tiny_config, mesh, what):
    tiny_config.priors.classification = "multi"
    once = trace(what, tiny_config, mesh).lowered.as_text()
    tiny_config.eval.passes = 2
    twice = trace(what, tiny_config, mesh).lowered.as_text()
    assert twice.count("stablehlo.case") == once.count("stablehlo.case") + 1  # a pass, or none


def test_what_cannot_be_is_one_sentence(tiny_config, mesh):
    tiny_config.data.batch_size = 6
    with pytest.raises(UserError, match=r"data\.batch_size=6 is no multiple"):
        trace("train", tiny_config, mesh)
    tiny_config.stage = "priors"
    with pytest.raises(UserError, match=r"stage='priors' trains alone.*--what=train"):
        trace("sample", tiny_config, mesh)
