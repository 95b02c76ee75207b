"""What is compiled for TPUs, by libtpu and without one: messages, halos, float32 parts.

Each program takes half a minute to minutes of both cores: bash launch/test.sh -m slow
tests/planning, in an environment that has libtpu.
"""

import pytest

from tpgdiff_jax.planning.chips import find_topology
from tpgdiff_jax.planning.plan import compile_apart, read_mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TINY = find_topology("v5e:2x4")
# data x fsdp x tensor x spatial, as docs/training.md names them.
MESHES = ("8x1x1x1", "2x4x1x1", "2x2x2x1", "2x1x1x4", "1x1x1x8")


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


def _messages(record):
    return {(m["kind"], m["axis"]): m["count"] for m in record["messages"]}


@pytest.mark.parametrize("mesh", MESHES)
def test_the_tiny_system_compiles_on_every_mesh(compiled, mesh):
    record = compiled(mesh)
    assert record["fits"]
    assert record["flops"] > 0
    data, fsdp, _, spatial = read_mesh(mesh).values()
    kinds = {kind for kind, _ in _messages(record)}
    assert "all-reduce" in kinds
    if fsdp == spatial == 1:
        assert kinds == {"all-reduce"}
        assert {axis for _, axis in _messages(record)} == {"data"}


@pytest.mark.parametrize("mesh", ["2x1x1x4", "1x1x1x8"])
def test_spatial_meshes_exchange_halos_and_gather_attentions_keys_alone(compiled, mesh):
    record = compiled(mesh)
    found = {(m["kind"], m["axis"]): m for m in record["messages"]}
    assert found["collective-permute", "spatial"]["count"] > 0
    gathers = [m for (kind, _), m in found.items() if kind == "all-gather"]
    sources = {source for message in gathers for source in message["sources"]}
    assert {source for source in sources if "self_attention" not in source} == set()
    # Keys and values of three layers, in the forward and again in the backward pass.
    assert sum(message["count"] for message in gathers) <= 12


@pytest.mark.parametrize("what", ["sample", "evaluate"])
def test_restoring_compiles(compiled, what):
    record = compiled("8x1x1x1", what)
    assert record["fits"]
    assert record["images"] == 8
