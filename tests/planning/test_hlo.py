"""Compiled text is read as XLA means it: bytes with padding, products, loops, messages."""

import jax
import jax.numpy as jnp
import pytest

from tpgdiff_jax.planning.collectives import axes_of, device_groups, messages
from tpgdiff_jax.planning.hlo import Hlo
from tpgdiff_jax.planning.instructions import arrays
from tpgdiff_jax.planning.movers import layer_of, movers, rounded

OF_K = 'metadata={op_name="jit(step)/jvp(TPGDiff)/TPGDiff.denoise/unet/k/dot_general"}'
MESH = (("data", 2), ("fsdp", 1), ("tensor", 1), ("spatial", 4))
TEXT = """HloModule jit_step, is_scheduled=true

%fused (p0: bf16[16,128], p1: bf16[128,256]) -> bf16[16,256] {
  %p0 = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[128,256]{1,0:T(8,128)(2,1)} parameter(1)
  %gather = bf16[16,128]{1,0} all-gather(%p0), channel_id=7, replica_groups=[2,4]<=[8], \
metadata={op_name="jit(step)/jvp(TPGDiff)/TPGDiff.denoise/unet/k/dot_general"}
  ROOT %dot.1 = bf16[16,256]{1,0:T(8,128)(2,1)} dot(%p0, %p1), lhs_contracting_dims={1}
}

%body (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %y = f32[8,128]{1,0:T(8,128)} negate(%x), metadata={op_name="jit(step)/while/body/unet/neg"}
  ROOT %next = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%i, %y)
}

ENTRY %main (a: bf16[16,128], b: bf16[128,256], c: f32[8,64]) -> bf16[16,256] {
  %a = bf16[16,128]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[128,256]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %c = f32[8,64]{1,0:T(8,128)} parameter(2)
  %f.1 = bf16[16,256]{1,0:T(8,128)(2,1)} fusion(%a, %b), kind=kOutput, calls=%fused, \
metadata={op_name="jit(step)/transpose(jvp(TPGDiff))/TPGDiff.denoise/unet/qkv/dot_general"}
  %f.2 = bf16[16,256]{1,0:T(8,128)(2,1)} fusion(%a, %b), kind=kOutput, calls=%fused
  %loop = (s32[], f32[8,128]{1,0:T(8,128)}) while(%t), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %sum = f32[8,64]{1,0:T(8,128)} all-reduce(%c), channel_id=2, replica_groups={{0,4},{1,5}}
  ROOT %done = bf16[16,256]{1,0:T(8,128)(2,1)} copy(%f.1)
}
"""


def test_arrays_are_padded_to_tiles_and_know_their_memory():
    tiled, fast, plain = arrays("(f32[9,64]{1,0:T(8,128)}, bf16[4]{0:T(128)S(1)}, u8[3]{0})")
    assert (tiled.bytes, tiled.space) == (16 * 128 * 4, 0)
    assert (fast.bytes, fast.space) == (128 * 2, 1)
    assert plain.bytes == 3


def test_fast_memory_costs_no_traffic_and_loops_count_their_turns():
    costs = {cost.instruction.name: cost for cost in Hlo(TEXT).costs()}
    assert costs["f.1"].bytes == (16 * 128 + 16 * 256) * 2  # %b lies in memory space 1
    assert costs["f.1"].flops == 2 * 16 * 256 * 128
    assert (costs["y"].times, costs["y"].bytes) == (5, 2 * 8 * 128 * 4)
    assert costs["sum"].bytes == 2 * 8 * 128 * 4  # padded to 128 lanes


def test_a_message_counts_once_however_often_it_is_fused():
    found = {message.kind: message for message in messages(Hlo(TEXT), MESH, 8)}
    gather, sum_ = found["all-gather"], found["all-reduce"]
    assert (gather.count, gather.axis, gather.sources) == (1, "spatial", ("unet/k",))
    assert gather.sent == gather.bytes * 3 / 4
    assert (sum_.count, sum_.axis, sum_.sent) == (1, "data", sum_.bytes)


# As XLA writes them for eight H100 (jax 0.10.2), shortened: each message takes several arrays, and
# only starts there.
STARTS = """ENTRY %main (a: bf16[8,128], b: bf16[16,256]) -> bf16[8,256] {
  %a = bf16[8,128]{1,0} parameter(0)
  %b = bf16[16,256]{1,0} parameter(1)
  %g = ((bf16[8,128]{1,0}, bf16[16,256]{1,0}), (bf16[64,128]{1,0}, bf16[128,256]{1,0})) \
all-gather-start(%a, %b), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %r = ((bf16[64,256]{1,0}), bf16[8,256]{1,0}) reduce-scatter-start(%c), channel_id=2, \
replica_groups=[1,8]<=[8], to_apply=%add
  %t = ((bf16[8,8,16]{2,0,1}), bf16[8,8,16]{2,0,1}) all-to-all-start(%d), channel_id=3, \
replica_groups=[1,8]<=[8]
  %p = ((bf16[1,128]{1,0}, bf16[2,128]{1,0}), (bf16[1,128]{1,0}, bf16[2,128]{1,0})) \
collective-permute-start(%e, %f), channel_id=4, source_target_pairs={{0,1},{1,2}}
  %s = (bf16[8,128]{1,0}, bf16[16,256]{1,0}) all-reduce-start(%a, %b), channel_id=5, \
replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %done = bf16[8,256]{1,0} reduce-scatter-done(%r)
}
"""


def test_messages_that_start_count_all_they_bring_and_nothing_else():
    found = {m.kind: (m.bytes, m.sent) for m in messages(Hlo(STARTS), (("data", 8),), 8)}
    gathered, summed = 2 * (64 * 128 + 128 * 256), 2 * (8 * 128 + 16 * 256)
    assert found == {
        "all-gather": (gathered, gathered * 7 / 8),
        "reduce-scatter": (2 * 8 * 256, 2 * 8 * 256 * 7),
        "all-to-all": (2 * 8 * 8 * 16, 2 * 8 * 8 * 16 * 7 / 8),
        "collective-permute": (2 * 3 * 128, 2 * 3 * 128),
        "all-reduce": (summed, 2 * summed * 7 / 8),
    }
    costs = {cost.instruction.name: cost.bytes for cost in Hlo(STARTS).costs()}
    assert costs["s"] == 2 * summed  # read and written


@pytest.mark.parametrize(
    ("attribute", "together"),
    [
        ("replica_groups=[1,16]<=[16]", 8),  # all of two nodes
        ("replica_groups=[2,8]<=[16]", 0),  # each node by itself
        ("replica_groups=[8,2]<=[2,8]T(1,0)", 1),  # one GPU of each node
        ("source_target_pairs={{0,1},{7,8}}", 1),
    ],
)
def test_messages_between_nodes_know_how_many_share_one(attribute, together):
    line = f"ENTRY %m (a: f32[8]) -> f32[8] {{\n  %r = f32[8] all-reduce(%a), {attribute}\n}}"
    (found,) = messages(Hlo(line), (("data", 2), ("fsdp", 8)), 8)
    assert found.together == together


def test_a_message_that_names_no_groups_is_one_of_all_devices():
    line = "ENTRY %m (a: f32[8]) -> f32[8] {\n  %r = f32[8] all-reduce(%a), replica_groups={}\n}"
    (found,) = messages(Hlo(line), (("data", 2), ("fsdp", 4)), 8)
    assert (found.axis, found.sent) == ("data+fsdp", 2 * 7 / 8 * 32)


BRANCHES = """%more (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4]{1,0} parameter(0)
  ROOT %dot = f32[4,4]{1,0} dot(%x, %x), lhs_contracting_dims={1}
}

%less (y: f32[4,4]) -> f32[4,4] {
  %y = f32[4,4]{1,0} parameter(0)
  ROOT %negate = f32[4,4]{1,0} negate(%y)
}

ENTRY %main (p: pred[], a: f32[4,4]) -> f32[4,4] {
  %p = pred[] parameter(0)
  %a = f32[4,4]{1,0} parameter(1)
  ROOT %c = f32[4,4]{1,0} conditional(%p, %a, %a), BOTH
}
"""


@pytest.mark.parametrize(
    "both",
    [
        "true_computation=%more, false_computation=%less",
        "branch_computations={%less, %more}",
    ],
)
def test_of_branches_the_dearest_counts(both):
    (cost,) = Hlo(BRANCHES.replace("BOTH", both)).costs()
    assert (cost.instruction.name, cost.products) == ("dot", {"float32": 2 * 4 * 4 * 4})


IN_PLACE = """%fused (p0: bf16[6,64,64], p1: s32[], p2: bf16[64,64]) -> bf16[6,64,64] {
  %p0 = bf16[6,64,64]{2,1,0} parameter(0)
  %p2 = bf16[64,64]{1,0} parameter(2)
  %part = bf16[1,64,64]{2,1,0} bitcast(%p2)
  %p1 = s32[] parameter(1)
  ROOT %set = bf16[6,64,64]{2,1,0} dynamic-update-slice(%p0, %part, %p1, %p1, %p1)
}

ENTRY %main (a: bf16[6,64,64], i: s32[], b: bf16[64,64]) -> bf16[6,64,64] {
  %a = bf16[6,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = bf16[64,64]{1,0} parameter(2)
  %c = bf16[1,64,64]{2,1,0} bitcast(%b)
  %one = bf16[6,64,64]{2,1,0} fusion(%a, %i, %b), kind=kCustom, calls=%fused
  ROOT %two = bf16[6,64,64]{2,1,0} dynamic-update-slice(%one, %c, %i, %i, %i)
}
"""


def test_what_is_set_in_place_costs_its_own_size_alone():
    costs = {cost.instruction.name: cost.bytes for cost in Hlo(IN_PLACE).costs()}
    part = 2 * 64 * 64
    assert costs == {"one": 2 * part + 4, "two": 2 * part + 3 * 4}


@pytest.mark.parametrize(
    ("attribute", "groups", "axis"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]], "spatial"),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]], "data"),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]], "data"),
        (
            "replica_groups=mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b'}, to_apply=%a",
            [[0, 1], [2, 3], [4, 5], [6, 7]],
            "spatial",
        ),
        ("replica_groups=[1,8]<=[8]", [list(range(8))], "data+spatial"),
        ("source_target_pairs={{0,1},{1,2}}, x={}", [[0, 1], [1, 2]], "spatial"),
    ],
)
def test_every_spelling_of_groups_is_read(attribute, groups, axis):
    line = f"ENTRY %m (a: f32[8]) -> f32[8] {{\n  %r = f32[8] all-reduce(%a), {attribute}\n}}"
    hlo = Hlo(line)
    found = device_groups(hlo.computations["m"]["r"])
    assert found == groups
    assert axes_of(found, MESH) == axis


def test_movers_are_named_by_layer_and_direction():
    rows = {(row.layer, row.kind): row for row in movers(Hlo(TEXT).costs())}
    assert rows["unet/qkv (backward)", "product"].count == 1
    assert rows["unet", "negate"].count == 5
    assert layer_of("jit(step)/jvp(TPGDiff)/TPGDiff.denoise/unet/cond/branch_0_fun/dot") == "unet"
    joined = (
        "jit(step)/transpose(jvp(TPGDiff))/unet/(down_0/conv_in/add:jvp()/up_1/conv_out/add:mul)"
    )
    assert layer_of(joined) == "unet/down_0/conv_in (backward)"
    again = "jit(step)/transpose(jvp(unet))/down_0/checkpoint/rematted_computation/proj_out/dot"
    assert layer_of(again) == "unet/down_0/proj_out (backward)"


def test_float32_products_that_a_chip_rounds_are_named():
    fused = "f32[16,128]{1,0:T(8,128)}"
    single = TEXT.replace("%p0 = bf16[16,128]{1,0:T(8,128)(2,1)}", f"%p0 = {fused}")
    for text, expected in (
        (TEXT, []),
        (single, ["unet/k"]),
        (single.replace("={1}\n", "={1}, operand_precision={highest,highest}\n"), []),
    ):
        named = text.replace("dims={1}", f"dims={{1}}, {OF_K}", 1)
        assert rounded(Hlo(named)) == expected


@pytest.mark.parametrize(("stride", "size"), [(1, 3), (2, 4)])
def test_products_of_convolutions_are_those_xla_counts(stride, size):
    def gradients(x, kernel):
        def convolve(x, kernel):
            how = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
            return jax.lax.conv_general_dilated(x, kernel, (stride,) * 2, ((1, 1),) * 2, **how)

        y, vjp = jax.vjp(convolve, x, kernel)
        return y, vjp(y)

    shapes = ((2, 12, 16, 8), (size, size, 8, 24))
    operands = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    compiled = jax.jit(gradients).lower(*operands).compile()
    found = sum(cost.flops for cost in Hlo(compiled.as_text()).costs())
    assert found == pytest.approx(compiled.cost_analysis()["flops"], rel=0.01)
