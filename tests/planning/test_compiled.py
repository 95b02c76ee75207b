"""What is compiled for TPUs, by libtpu and without one: messages, halos, float32 parts.

Each program takes one or two minutes of both cores: bash launch/test.sh -m slow
tests/planning, in an environment that has libtpu.
"""

import pytest

from tpgdiff_jax.planning.chips import find_topology
from tpgdiff_jax.planning.plan import compile_apart, read_mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TINY = find_topology("v5e:2x4")
# Of one training step in float32, with libtpu 0.0.52: what is sent along which axis, and how often.
# Meshes are data x fsdp x tensor x spatial, as docs/training.md names them.
MESSAGES = {
    "8x1x1x1": {"all-reduce": {"data": 1}},
    "2x4x1x1": {
        "all-reduce": {"data+fsdp": 1, "fsdp": 1},
        "all-gather": {"fsdp": 4},
    },
    "2x2x2x1": {
        "all-reduce": {"data+fsdp": 1, "fsdp": 1},
        "all-gather": {"fsdp": 4},
    },
    "2x1x1x4": {
        "all-reduce": {"data": 2, "data+spatial": 1, "spatial": 26},
        "all-gather": {"spatial": 12},
        "collective-permute": {"spatial": 189},
    },
    "1x1x1x8": {
        "all-reduce": {"spatial": 26},
        "all-gather": {"spatial": 12},
        "collective-permute": {"spatial": 189},
    },
}


@pytest.fixture(autouse=True)
def _no_flags_of_the_cpu(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # libtpu ends at a flag that it does not know


@pytest.fixture
def compiled(libtpu, tiny_config):
    """`compiled(mesh, what)` -> the record of the tiny system on eight chips."""

    def run(mesh, what="train", **keys):
        with tiny_config.unlocked():
            tiny_config.model.head_dim = 32  # one head: full attention takes one turn
            tiny_config.data.crop_size = tiny_config.priors.map_size = 128
            tiny_config.eval.update({"batch_size": 8, "crop_size": 128})
            tiny_config.update_from_flattened_dict(keys)
        return compile_apart(tiny_config, TINY, read_mesh(mesh), what)

    return run


@pytest.mark.parametrize("mesh", MESSAGES)
def test_a_step_sends_these_messages(compiled, mesh):
    record = compiled(mesh)
    assert record["fits"]
    assert record["flops"] > 0
    found = {}
    for message in record["messages"]:
        found.setdefault(message["kind"], {})[message["axis"]] = message["count"]
    assert found == MESSAGES[mesh]
    # Halos go by collective-permute; no map is gathered but attention's keys and values: those of
    # three layers, in the forward and again in the backward pass.
    if "all-gather" in found and set(found["all-gather"]) == {"spatial"}:
        gathers = [m for m in record["messages"] if m["kind"] == "all-gather"]
        sources = {source for message in gathers for source in message["sources"]}
        assert {source for source in sources if "self_attention" not in source} == set()


def test_in_bfloat16_training_rounds_the_gradient_of_scores_alone(compiled):
    record = compiled("8x1x1x1", **{"model.dtype": "bfloat16"})
    # float32 gradients of scores times queries or keys, as bfloat16 products have them anyway.
    assert record["rounded"] == [
        "structure/connector/cross_attention/BTNH,BSNH->BNTS (backward)",
        "unet/down_1_attention/attention/self_attention/BTNH,BSNH->BNTS (backward)",
        "unet/middle_attention/attention/self_attention/BTNH,BSNH->BNTS (backward)",
        "unet/up_1_attention/attention/self_attention/BTNH,BSNH->BNTS (backward)",
    ]


@pytest.mark.parametrize("what", ["sample", "evaluate"])
def test_restoring_compiles(compiled, what):
    record = compiled("8x1x1x1", what, **{"model.dtype": "bfloat16"})
    assert record["fits"]
    assert record["images"] == 8
    assert record["rounded"] == []  # what must stay float32 does
