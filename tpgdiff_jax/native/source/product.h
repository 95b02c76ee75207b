// Plans of matrix products, row-major, either factor transposed or not.
#pragma once

#include "plan.h"

namespace tpgdiff {

// `count` products a [rows, inner] b [inner, columns], one after the other in memory; a flag tells
// that a factor lies transposed.
struct Product {
  int64_t count, rows, inner, columns;
  int64_t transpose_a, transpose_b;
  int64_t a_type, b_type, result_type;  // dnnl_data_type_t
  int64_t bias;

  Plans::Key Key() const {
    // Fewer fields than a convolution's key, so that the two never meet.
    return {count,       rows,   inner,  columns,     transpose_a,
            transpose_b, a_type, b_type, result_type, bias};
  }
};

inline std::unique_ptr<Plan> MakePlan(const Product& p) {
  using tag = memory::format_tag;
  auto factor = [&](int64_t rows, int64_t columns, int64_t type, bool transposed) {
    return memory::desc({p.count, rows, columns}, static_cast<memory::data_type>(type),
                        transposed ? tag::acb : tag::abc);
  };
  const memory::desc a = factor(p.rows, p.inner, p.a_type, p.transpose_a);
  const memory::desc b = factor(p.inner, p.columns, p.b_type, p.transpose_b);
  const memory::desc result = factor(p.rows, p.columns, p.result_type, false);
  // The smaller second factor, a layer's matrix, is blocked and cast as oneDNN likes.
  const memory::desc any({p.count, p.inner, p.columns},
                         static_cast<memory::data_type>(p.a_type), tag::any);
  const bool is_layer = p.rows >= p.columns && !p.transpose_a;
  const memory::desc bias = p.bias
      ? memory::desc({1, 1, p.columns}, memory::data_type::f32, tag::abc) : memory::desc();
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::matmul::primitive_desc product(
      Engine(), a, is_layer || p.a_type != p.b_type ? any : b, bias, result, attributes);
  std::vector<Operand> operands;
  operands.emplace_back(DNNL_ARG_SRC, a, product.src_desc(), false);
  operands.emplace_back(DNNL_ARG_WEIGHTS, b, product.weights_desc(), false);
  if (p.bias) operands.emplace_back(DNNL_ARG_BIAS, bias, product.bias_desc(), false);
  operands.emplace_back(DNNL_ARG_DST, result, product.dst_desc(), true);
  return std::make_unique<Plan>(dnnl::matmul(product), product.scratchpad_desc(),
                                product.impl_info_str(), std::move(operands));
}

}  // namespace tpgdiff
