"""Operations of what a GPU's program calls: matrix products, convolutions, attention."""

import pytest

from tpgdiff_jax.planning import arithmetic
from tpgdiff_jax.planning.hlo import Hlo

# As XLA writes them for an H200 (jax 0.10.2), with shorter names.
CALLS = """HloModule jit_step, is_scheduled=true

ENTRY %main (x: bf16[2,8,8,6], k: bf16[16,3,3,6], dy: bf16[2,8,8,16]) -> bf16[2,8,8,16] {
  %x = bf16[2,8,8,6]{3,2,1,0} parameter(0)
  %k = bf16[16,3,3,6]{3,2,1,0} parameter(1)
  %dy = bf16[2,8,8,16]{3,2,1,0} parameter(2)
  %forward = (bf16[2,8,8,16]{3,2,1,0}, u8[4096]{0}) custom-call(%x, %k), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convForward"
  %of_x = (bf16[2,8,8,6]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %k), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardInput"
  %of_k = (bf16[16,3,3,6]{3,2,1,0}, u8[0]{0}) custom-call(%x, %dy), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter"
  %rows = bf16[128,6]{1,0} bitcast(%x)
  %w = bf16[6,32]{1,0} parameter(3)
  %product = (bf16[128,32]{1,0}, s8[4194304]{0}) custom-call(%rows, %w), \
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"beta":0,\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %q = bf16[2,64,4,8]{3,2,1,0} parameter(4)
  %kv = bf16[2,32,4,8]{3,2,1,0} parameter(5)
  %attend = (bf16[2,4,64,8]{3,1,2,0}, u8[0]{0}) custom-call(%q, %kv, %kv), \
custom_call_target="__cudnn$fmhaSoftmax"
  %attended = (bf16[2,4,64,8]{3,1,2,0}, u8[0]{0}) custom-call(%q, %kv, %kv), \
custom_call_target="__cudnn$fmhaSoftmaxBackward"
  ROOT %other = bf16[2,8,8,16]{3,2,1,0} custom-call(%dy), custom_call_target="annotate"
}
"""


@pytest.fixture(scope="module")
def costs():
    return {cost.instruction.name: cost for cost in Hlo(CALLS).costs()}


def test_a_convolution_and_both_its_gradients_take_the_same_operations(costs):
    # 8x8 pixels, of whose 3x3 neighbours 22 x 22 lie inside.
    expected = 2 * 2 * 16 * 6 * 22 * 22
    assert [costs[name].flops for name in ("forward", "of_x", "of_k")] == [expected] * 3


def test_products_and_attention_are_counted_by_their_shapes(costs):
    assert costs["product"].flops == 2 * 128 * 32 * 6
    scores = 2 * 2 * 4 * 64 * 32 * 8
    assert costs["attend"].flops == 2 * scores
    assert costs["attended"].flops == 5 * scores
    assert costs["other"].flops == 0


def test_room_to_work_in_is_no_traffic(costs):
    assert costs["forward"].bytes == 2 * (2 * 64 * 6 + 16 * 9 * 6 + 2 * 64 * 16)
    assert costs["product"].bytes == 2 * (128 * 6 + 6 * 32 + 128 * 32)


def test_the_precision_of_a_product_is_read_from_both_spellings():
    highest = 'backend_config={"precision_config":{"operand_precision":["HIGHEST","HIGHEST"]}}'
    usual = highest.replace("HIGHEST", "DEFAULT")
    found = [
        arithmetic.precision(["f32", "f32"], rest)
        for rest in (usual, highest, "operand_precision={highest,highest}", "")
    ]
    assert found == ["float32", "exact", "exact", "float32"]
    assert arithmetic.precision(["bf16", "bf16"], highest) == "bfloat16"


def test_what_is_no_library_of_nvidias_is_left_to_others():
    assert not arithmetic.is_library_call("annotate")
    assert not arithmetic.is_library_call("")
